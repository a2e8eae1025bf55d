"""Argument checks of the operators."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NoReturn, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "LEAST_TEMPERATURE",
    "STATS_DTYPE",
    "check_flag",
    "check_inputs",
    "check_real",
    "check_rows",
    "check_scale",
    "check_tensors",
    "check_whole",
    "dtype_name",
    "has_data",
    "is_dtensor",
    "raise_bad_row",
    "temperature_tensor",
]

# The dtypes of logits, and the dtype in which their statistics are computed and returned.
STATS_DTYPE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


# A smaller temperature serves no purpose, and the gradient, which is of the size of 1/τ, would
# leave the range of the dtype.
LEAST_TEMPERATURE = {torch.float32: 1e-32, torch.float64: 1e-290}


def check_tensors(**tensors: object) -> None:
    """Raise TypeError for an argument that is not a tensor; a mask may be None."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor) and not (name == "mask" and value is None):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")


def check_whole(name: str, value: object, *, at_least: int) -> None:
    """Raise TypeError or ValueError unless a size is an integer that fits into 64 bits."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < at_least or value >= 2**63:
        raise ValueError(f"{name}: expected at least {at_least}, got {value}")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless a switch is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def has_data(tensor: Tensor) -> bool:
    """Whether the tensor has values to read: not so under FakeTensorMode and on "meta"."""
    return tensor.untyped_storage().device.type != "meta"


def check_scale(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless gradients can be multiplied and divided by the scale."""
    if isinstance(value, Tensor):
        if value.ndim > 0 or value.requires_grad:
            raise ValueError(
                f"{name}: expected a 0-d tensor without gradient, "
                f"got shape {list(value.shape)}"
                f"{', which requires one' if value.requires_grad else ''}"
            )
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number or a tensor, got {value!r}")
    elif not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a finite number above 0, got {value}")


def check_real(name: str, tensor: Tensor) -> None:
    """Raise ValueError for a tensor without values, for example under FakeTensorMode."""
    if not has_data(tensor):
        raise ValueError(f"{name}: expected a tensor with data, got a fake or meta tensor")


def check_inputs(logits: Tensor, tokens: Tensor, temperature: Tensor, mask: Tensor | None) -> None:
    """Raise TypeError or ValueError, naming the argument, unless shapes, dtypes and devices fit.

    Reads no values, so it works for real and fake tensors.
    """
    if logits.dtype not in STATS_DTYPE:
        raise TypeError(
            "logits: expected float32, float64, bfloat16 or float16, "
            f"got {dtype_name(logits.dtype)}"
        )
    if logits.ndim == 0:
        raise ValueError("logits: expected shape [..., V], got a 0-dimensional tensor")
    lead, vocab = logits.shape[:-1], logits.shape[-1]
    if vocab == 0:
        raise ValueError("logits: expected at least one vocabulary column, got V = 0")
    if vocab >= 2**30:  # CUDA counts columns in 32 bits, a tile beyond the end included
        raise ValueError(f"logits: expected V below 2^30, got V = {vocab}")
    if vocab > 1 and logits.stride(-1) != 1:
        raise ValueError(
            "logits: expected a contiguous vocabulary (last) dimension, got stride "
            f"{logits.stride(-1)}; call .contiguous() or pass the transpose"
        )
    if tokens.dtype != torch.int64:
        raise TypeError(f"tokens: expected int64, got {dtype_name(tokens.dtype)}")
    if temperature.dtype != STATS_DTYPE[logits.dtype]:
        raise TypeError(
            f"temperature: expected {dtype_name(STATS_DTYPE[logits.dtype])} for "
            f"{dtype_name(logits.dtype)} logits, got {dtype_name(temperature.dtype)}"
        )
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask: expected bool, got {dtype_name(mask.dtype)}")
    for name, value in (("tokens", tokens), ("temperature", temperature), ("mask", mask)):
        if value is None or (name == "temperature" and value.ndim == 0):
            pass
        elif value.shape != lead:
            raise ValueError(
                f"{name}: expected shape {list(lead)}, the logits' without the vocabulary, "
                f"got {list(value.shape)}"
            )
        if value is not None and value.device != logits.device:
            raise ValueError(f"{name}: expected device {logits.device}, got {value.device}")


def check_rows(tokens: Tensor, temperature: Tensor, mask: Tensor | None, vocab: int | None) -> None:
    """On the CPU, raise ValueError for the first unmasked row whose token or temperature is bad.

    For operators that pass the kernels parts of a batch: the kernel's own error would give the
    position within the part. On CUDA such a row becomes NaN, because a check would wait for the
    device. With vocab None, tokens have no upper bound.
    """
    if tokens.device.type != "cpu":
        return
    check_real("tokens", tokens)
    least = LEAST_TEMPERATURE[temperature.dtype]
    good = (tokens >= 0) & (temperature > least) & torch.isfinite(temperature)
    if vocab is not None:
        good &= tokens < vocab
    bad = ~good if mask is None else ~good & mask
    if bad.any():
        raise_bad_row(int(bad.flatten().to(torch.uint8).argmax()), tokens, temperature, vocab)


def raise_bad_row(row: int, tokens: Tensor, temperature: Tensor, vocab: int | None) -> NoReturn:
    """Raise ValueError for the bad token or temperature of the row with this flat index."""
    position = [int(i) for i in torch.unravel_index(torch.tensor(row, device="cpu"), tokens.shape)]
    where = f"[{', '.join(map(str, position))}]"
    token = int(tokens.flatten()[row])
    if token < 0 or (vocab is not None and token >= vocab):
        bound = "of 0 or more" if vocab is None else f"in [0, {vocab})"
        raise ValueError(f"tokens{where}: expected a value {bound}, got {token}")
    value = float(temperature if temperature.ndim == 0 else temperature.flatten()[row])
    name = "temperature" if temperature.ndim == 0 else f"temperature{where}"
    least = LEAST_TEMPERATURE[temperature.dtype]
    raise ValueError(f"{name}: expected a finite number above {least:g}, got {value}")


def temperature_tensor(temperature: float | Tensor, like: Tensor) -> Tensor:
    """The temperature as a tensor in the statistics dtype of `like`, 0-d if it was a number.

    Raises:
        TypeError, ValueError: neither a number nor a tensor, or a tensor that requires a gradient.
    """
    if isinstance(temperature, Tensor):
        if temperature.requires_grad:
            raise ValueError(
                "temperature: expected a tensor without gradient, as none flows to it; "
                "detach it, or divide the logits by it"
            )
        return temperature
    if not isinstance(temperature, (int, float)):
        raise TypeError(
            f"temperature: expected a number or a tensor, got {type(temperature).__name__}"
        )
    dtype = STATS_DTYPE.get(like.dtype, torch.float32)
    if not torch.compiler.is_compiling():
        return torch.full((), _within(dtype, temperature), dtype=dtype, device=like.device)
    # torch.full would make the number a constant of the graph, which would be recompiled for every
    # temperature; the factor of a product is an input, unless (in PyTorch 2.11) it is computed.
    return torch.ones((), dtype=dtype, device=like.device) * temperature


def _within(dtype: torch.dtype, number: float) -> float:
    """The number, or ±∞ beyond the range of the dtype, which the kernels refuse by name."""
    greatest = torch.finfo(dtype).max
    if number > greatest:
        return math.inf
    return -math.inf if number < -greatest else float(number)


def dtype_name(dtype: torch.dtype) -> str:
    """As in "float32"."""
    return str(dtype).removeprefix("torch.")


def is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor; does not import its module, which is slow to load."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)
