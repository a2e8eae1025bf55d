"""The statistics over the kept ids: allocation, and calls of the compiled module.

These functions run after those of native.py, on the same rows. No gradient is recorded.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from entropy_ext import _core, native
from entropy_ext.inputs import STATS_DTYPE
from entropy_ext.support import check_support, row_fault

__all__ = ["empty_stats", "support_backward", "support_forward"]


def empty_stats(logits: Tensor, given: bool) -> Tensor:
    """The result of support_forward, uninitialised; an empty tensor without a support."""
    dtype = STATS_DTYPE[logits.dtype]
    return logits.new_empty((5, *logits.shape[:-1]) if given else (0,), dtype=dtype)


def support_forward(
    logits: Tensor,
    tokens: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    offsets: Tensor,
    ids: Tensor,
) -> Tensor:
    """support_logp, support_entropy and three inputs of the backward pass, in one tensor [5, ...].

    Follows native.token_stats_forward, which checks the other arguments.

    Raises:
        TypeError, ValueError: see check_support; on the CPU also for a malformed row that is not
            masked (on CUDA such a row is NaN).
    """
    check_support(offsets, ids, rows=tokens.numel(), device=logits.device)
    stats = empty_stats(logits, True)
    if tokens.numel() == 0:
        return stats
    tokens, temperature = tokens.contiguous(), temperature.contiguous()
    mask = None if mask is None else mask.contiguous()
    offsets, ids = offsets.contiguous(), ids.contiguous()
    with native.device_guard(logits):
        bad_row = _core.support_forward(
            **native.row_arguments(logits, tokens, temperature, mask),
            **_support_arguments(offsets, ids, stats),
        )
    if bad_row >= 0:
        raise ValueError(row_fault(offsets, ids, bad_row, logits.shape[-1]))
    return stats


def support_backward(
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
    offsets: Tensor,
    ids: Tensor,
    stats: Tensor,
    grad_stats: Tensor,
    *,
    out: Tensor,
) -> None:
    """Overwrites the kept entries of the gradient that native.token_stats_backward wrote to out.

    Adds (1/τ)[g_support_logp(1[i = token] − qᵢ) − g_support_entropy·qᵢ(ln qᵢ + H_K)] to dzᵢ.

    Args:
        logits, …, grad_lse: as in that function; out must not overlap logits.
        offsets, ids: as in the forward pass.
        stats: [5, ...], as returned by the forward pass.
        grad_stats: [5, ...], upstream gradients of its first two; the others are not read.
    """
    check_support(offsets, ids, rows=tokens.numel(), device=logits.device)
    if tokens.numel() == 0:
        return
    tokens, temperature = tokens.contiguous(), temperature.contiguous()
    mask = None if mask is None else mask.contiguous()
    offsets, ids = offsets.contiguous(), ids.contiguous()
    grad_stats = grad_stats.contiguous()
    grad_logp, grad_entropy, grad_lse = (
        grad.contiguous() for grad in (grad_logp, grad_entropy, grad_lse)
    )
    with native.device_guard(logits):
        bad_row = _core.support_backward(
            **native.row_arguments(logits, tokens, temperature, mask),
            entropy=entropy.data_ptr(),
            row_max=row_max.data_ptr(),
            row_sum=row_sum.data_ptr(),
            grad_logp=grad_logp.data_ptr(),
            grad_entropy=grad_entropy.data_ptr(),
            grad_lse=grad_lse.data_ptr(),
            grad_logits=out.data_ptr(),
            **_support_arguments(offsets, ids, stats),
            grad_stats=grad_stats.data_ptr(),
        )
    if bad_row >= 0:
        raise ValueError(row_fault(offsets, ids, bad_row, logits.shape[-1]))


def _support_arguments(offsets: Tensor, ids: Tensor, stats: Tensor) -> dict[str, Any]:
    return {
        "offsets": offsets.data_ptr(),
        "ids": ids.data_ptr(),
        "count": len(ids),
        "stats": stats.data_ptr(),
    }
