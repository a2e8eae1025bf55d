"""For each kernel: checks, allocation, device guard and stream around one call of the module.

This is the only file that handles both torch tensors and raw addresses. Its functions do not record
gradients; ops.py registers them as operators.
"""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from entropy_ext import _core
from entropy_ext.inputs import (
    STATS_DTYPE,
    check_inputs,
    check_real,
    dtype_name,
    raise_bad_row,
)

__all__ = [
    "device_guard",
    "empty_results",
    "row_arguments",
    "token_stats_backward",
    "token_stats_forward",
]

_DTYPE_CODE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

# For smaller gradients, page faults cost too little to make reusing the memory worthwhile.
_KEPT_BYTES = 16 << 20


def empty_results(
    logits: Tensor, extras: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The results of token_stats_forward, uninitialised, as the fake operator returns them."""
    lead, dtype = logits.shape[:-1], STATS_DTYPE[logits.dtype]
    logp, entropy, lse, row_max, row_sum = (logits.new_empty(lead, dtype=dtype) for _ in range(5))
    extra = logits.new_empty((4, *lead) if extras else (0,), dtype=dtype)
    return logp, entropy, lse, row_max, row_sum, extra


def token_stats_forward(
    logits: Tensor, tokens: Tensor, temperature: Tensor, mask: Tensor | None, extras: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits [..., V] → logp, entropy, lse, row_max, row_sum [...], extras [4, ...], in one read.

    row_max = max z and row_sum = Σ exp((z − max z)/τ) are inputs of the backward pass. The last
    result is empty unless extras is true.

    Raises:
        TypeError, ValueError: see check_inputs; on the CPU also for a token or a temperature out
            of range in an unmasked row (on CUDA such a row is NaN).
    """
    check_inputs(logits, tokens, temperature, mask)
    results = empty_results(logits, extras)
    logp, entropy, lse, row_max, row_sum, extra = results
    if tokens.numel() == 0:
        return results
    tokens, temperature = tokens.contiguous(), temperature.contiguous()
    mask = None if mask is None else mask.contiguous()
    with device_guard(logits):
        scratch = _forward_scratch(logits)
        bad_row = _core.token_stats_forward(
            **row_arguments(logits, tokens, temperature, mask),
            logp=logp.data_ptr(),
            entropy=entropy.data_ptr(),
            lse=lse.data_ptr(),
            row_max=row_max.data_ptr(),
            row_sum=row_sum.data_ptr(),
            extras=extra.data_ptr() if extras else 0,
            scratch=0 if scratch is None else scratch.data_ptr(),
        )
    if bad_row >= 0:
        raise_bad_row(bad_row, tokens, temperature, logits.shape[-1])
    return results


def token_stats_backward(
    logits: Tensor,
    tokens: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    entropy: Tensor,
    row_max: Tensor,
    row_sum: Tensor,
    grad_logp: Tensor,
    grad_entropy: Tensor,
    grad_lse: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The gradient of the logits, [..., V], in one read of the logits and one write.

    dzᵢ = (1/τ)[g_logp(1[i = token] − pᵢ) − g_entropy·pᵢ(ln pᵢ + H) + g_lse·pᵢ]

    Args:
        logits, tokens, temperature, mask: as in the forward pass.
        entropy, row_max, row_sum: [...], as returned by the forward pass.
        grad_logp, grad_entropy, grad_lse: [...], upstream gradients in the dtype of the statistics.
        out: where to write the gradient: contiguous, like logits. Default: newly allocated.
    """
    check_inputs(logits, tokens, temperature, mask)
    if out is None:
        out = _empty_gradient(logits)
    elif (out.shape, out.dtype, out.device) != (logits.shape, logits.dtype, logits.device):
        raise ValueError(
            f"out: expected the logits' {list(logits.shape)} {dtype_name(logits.dtype)} on "
            f"{logits.device}, got {list(out.shape)} {dtype_name(out.dtype)} on {out.device}"
        )
    elif not out.is_contiguous():
        raise ValueError(f"out: expected a contiguous tensor, got strides {out.stride()}")
    if tokens.numel() == 0:
        return out
    tokens, temperature = tokens.contiguous(), temperature.contiguous()
    mask = None if mask is None else mask.contiguous()
    grad_logp, grad_entropy, grad_lse = (
        grad.contiguous() for grad in (grad_logp, grad_entropy, grad_lse)
    )
    with device_guard(logits):
        _core.token_stats_backward(
            **row_arguments(logits, tokens, temperature, mask),
            entropy=entropy.data_ptr(),
            row_max=row_max.data_ptr(),
            row_sum=row_sum.data_ptr(),
            grad_logp=grad_logp.data_ptr(),
            grad_entropy=grad_entropy.data_ptr(),
            grad_lse=grad_lse.data_ptr(),
            grad_logits=out.data_ptr(),
        )
    return out


def _empty_gradient(logits: Tensor) -> Tensor:
    """An empty contiguous tensor like the logits; on a CPU, in the memory of a freed gradient."""
    nbytes = logits.numel() * logits.itemsize
    if logits.is_cuda or nbytes < _KEPT_BYTES or not sys.platform.startswith("linux"):
        return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    memory = _core.GradientMemory(bytes=nbytes)
    return torch.frombuffer(memory, dtype=logits.dtype).view(logits.shape)


def device_guard(logits: Tensor) -> AbstractContextManager[object]:
    """A context in which the device of the logits is the current one."""
    check_real("logits and tokens", logits)
    if logits.is_cuda:
        return torch.cuda.device(logits.device)
    if logits.device.type != "cpu":
        raise ValueError(f"logits: expected a CPU or CUDA tensor, got device {logits.device}")
    return nullcontext()


def _leading_layout(logits: Tensor) -> tuple[list[int], list[int]]:
    """Sizes and strides of the leading dimensions, merged where the strides allow it."""
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(logits.shape[:-1], logits.stride()[:-1], strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == stride * size:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    if len(sizes) > _core.max_leading_dims:
        raise ValueError(
            f"logits: expected at most {_core.max_leading_dims} leading dimensions that cannot be "
            f"merged, got {len(sizes)}; call .contiguous()"
        )
    return sizes, strides


def row_arguments(
    logits: Tensor, tokens: Tensor, temperature: Tensor, mask: Tensor | None
) -> dict[str, Any]:
    """The arguments of every call: the logits, the numbers per row, and where to run."""
    sizes, strides = _leading_layout(logits)
    return {
        "dtype": _DTYPE_CODE[logits.dtype],
        "logits": logits.data_ptr(),
        "sizes": sizes,
        "strides": strides,
        "rows": math.prod(sizes),
        "vocab": logits.shape[-1],
        "tokens": tokens.data_ptr(),
        "temperature": temperature.data_ptr(),
        "temperature_stride": 0 if temperature.ndim == 0 else 1,
        "mask": 0 if mask is None else mask.data_ptr(),
        "threads": torch.get_num_threads(),
        "cuda": logits.is_cuda,
        "stream": torch.cuda.current_stream().cuda_stream if logits.is_cuda else 0,
    }


def _forward_scratch(logits: Tensor) -> Tensor | None:
    """Scratch memory for the partial moments of rows that several CUDA blocks share."""
    if not logits.is_cuda:
        return None
    size = _core.forward_scratch_bytes(
        dtype=_DTYPE_CODE[logits.dtype],
        rows=logits.numel() // logits.shape[-1],
        vocab=logits.shape[-1],
        device=logits.get_device(),
    )
    return torch.empty(size, dtype=torch.uint8, device=logits.device) if size else None
