"""Argument checks of the token functions. Only check_range looks at a tensor's values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import NoReturn

import torch
from torch import Tensor

from entropy_ext.inputs import dtype_name

__all__ = [
    "check_bounds",
    "check_choice",
    "check_fraction",
    "check_number",
    "check_range",
    "check_seed",
    "check_stored",
    "check_tensors",
    "check_tokens",
    "raise_bad_token",
    "seed_tensor",
]


def check_tensors(required: dict[str, object], **optional: object) -> None:
    """Raise TypeError unless all arguments, by name, are tensors; optional ones may be None."""
    for name, value in (required | optional).items():
        if not isinstance(value, Tensor) and (value is not None or name in required):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")


def check_tokens(
    values: dict[str, Tensor | None],
    *,
    mask: Tensor | None = None,
    flags: dict[str, Tensor | None] | None = None,
    token_ids: Tensor | None = None,
) -> None:
    """Raise unless all tensors have the shape and device of the first value.

    Args:
        values: by name; float32 or float64, all of the same dtype. The first is not None.
        mask: bool or None.
        flags: by name; bool or None.
        token_ids: int64 or None.

    Raises:
        TypeError: the wrong dtype.
        ValueError: the wrong shape or device.
    """
    first, like = next(iter(values.items()))
    assert like is not None
    if like.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{first}: expected float32 or float64, got {dtype_name(like.dtype)}")
    wanted = [(name, value, like.dtype) for name, value in values.items()]
    wanted += [(name, value, torch.bool) for name, value in {"mask": mask, **(flags or {})}.items()]
    wanted.append(("token_ids", token_ids, torch.int64))
    for name, value, dtype in wanted:
        if value is None:
            continue
        if value.dtype != dtype:
            of = f", the dtype of {first}" if dtype == like.dtype else ""
            raise TypeError(
                f"{name}: expected {dtype_name(dtype)}{of}, got {dtype_name(value.dtype)}"
            )
        if value.shape != like.shape:
            raise ValueError(
                f"{name}: expected shape {list(like.shape)}, that of {first}, "
                f"got {list(value.shape)}"
            )
        if value.device != like.device:
            raise ValueError(f"{name}: expected device {like.device}, got {value.device}")


def check_fraction(fraction: float) -> None:
    """Raise TypeError or ValueError unless it is a number and 0 ≤ fraction ≤ 1."""
    _check_real("fraction", fraction)
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction: expected a number in [0, 1], got {fraction}")


def check_number(
    name: str,
    value: float,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    finite: bool = True,
) -> None:
    """Raise TypeError or ValueError unless it is a finite number and at_least ≤ value ≤ at_most.

    With finite=False, infinity is allowed too.
    """
    _check_real(name, value)
    # Comparisons only: torch.compile can trace them if the number is an input of the graph.
    if not (at_least <= value <= at_most and (-math.inf < value < math.inf or not finite)):
        raise ValueError(
            f"{name}: expected a {'finite ' if finite else ''}number in "
            f"[{at_least:g}, {at_most:g}], got {value}"
        )


def check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """(low, high); raise TypeError or ValueError unless they are two numbers, low < high."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"bounds: expected two numbers (low, high), got {bounds!r}")
    low, high = bounds
    if not (isinstance(low, Real) and isinstance(high, Real)):
        raise TypeError(f"bounds: expected two numbers (low, high), got {bounds!r}")
    if not low < high:
        raise ValueError(f"bounds: expected low < high, got {bounds}")
    return low, high


def _check_real(name: str, value: object) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__})")


def check_stored(tensors: dict[str, Tensor | None]) -> None:
    """Raise ValueError for a fake or meta tensor.

    With a group the kernels are called directly, without an operator that would handle it.
    """
    for name, value in tensors.items():
        if value is None:
            continue
        if value.untyped_storage().device.type == "meta":
            raise ValueError(
                f"{name}: expected a real tensor, as group= exchanges values, got a fake or meta "
                "tensor"
            )


def check_range(scale: Tensor) -> None:
    """Raise ValueError unless scale, (M_min, M_max) on the CPU, has 0 ≤ M_min ≤ M_max < ∞."""
    least, greatest = scale.tolist()
    if not 0.0 <= least <= greatest < math.inf:
        raise ValueError(
            f"weight_scale: expected 0 ≤ M_min ≤ M_max, finite, got ({least}, {greatest})"
        )


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError unless value is one of the choices."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def seed_tensor(seed: int | Tensor, device: torch.device) -> Tensor:
    """The seed as a 0-d int64 tensor on the device, without waiting for the device.

    Raises:
        TypeError, ValueError: neither an int nor a 0-d int64 tensor on that device.
    """
    if isinstance(seed, int):
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed: expected an int of 64 bits, got {seed}")
        # A product, because torch.compile then takes the number as an input; torch.full would make
        # it a constant of the graph, which would be recompiled for every seed.
        return torch.ones((), dtype=torch.int64, device=device) * seed
    if not isinstance(seed, Tensor):
        raise TypeError(f"seed: expected an int or a tensor, got {type(seed).__name__}")
    check_seed(seed, device)
    return seed


def check_seed(seed: Tensor, device: torch.device) -> None:
    """Raise unless the seed is a 0-d int64 tensor on the device."""
    if seed.dtype != torch.int64:
        raise TypeError(f"seed: expected int64, got {dtype_name(seed.dtype)}")
    if seed.ndim != 0:
        raise ValueError(f"seed: expected a 0-dimensional tensor, got shape {list(seed.shape)}")
    if seed.device != device:
        raise ValueError(f"seed: expected device {device}, got {seed.device}")


def raise_bad_token(
    position: int, values: dict[str, Tensor | None], *, nan: bool = False
) -> NoReturn:
    """Raise ValueError for the token with this flat index, naming the first of its bad values.

    A value is bad if it is not finite; with nan=True, only if it is NaN.
    """
    for name, value in values.items():
        if value is None:
            continue
        number = float(value.flatten()[position])
        if math.isnan(number) if nan else not math.isfinite(number):
            index = torch.unravel_index(torch.tensor(position, device="cpu"), value.shape)
            where = f"[{', '.join(str(int(i)) for i in index)}]"
            wanted = "a number" if nan else "a finite number"
            raise ValueError(f"{name}{where}: expected {wanted} in a valid token, got {number}")
    raise ValueError(f"{next(iter(values))}: the entropy change of token {position} overflows")
