"""token_stats whose backward pass writes the gradient over the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from entropy_ext import native
from entropy_ext.autograd import first_order

__all__ = ["check_inplace", "inplace_token_stats"]


def check_inplace(logits: Tensor, supported: bool) -> None:
    """Raise ValueError unless the gradient may overwrite the logits."""
    if supported:
        raise ValueError("inplace_backward: expected no support, whose gradient reads the logits")
    if torch.compiler.is_compiling():
        raise ValueError("inplace_backward: expected a call outside torch.compile")
    owner = logits if logits._base is None else logits._base
    if owner.requires_grad and owner.is_leaf:
        raise ValueError(
            "inplace_backward: expected logits that another operation computed; these are a leaf "
            "or a view of one, whose values the gradient would overwrite"
        )
    if not logits.is_contiguous():
        raise ValueError(
            "inplace_backward: expected contiguous logits, each entry in memory of its own, got "
            f"strides {logits.stride()} for shape {list(logits.shape)}"
        )


def inplace_token_stats(
    logits: Tensor, tokens: Tensor, temperature: Tensor, mask: Tensor | None, extras: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logp, entropy, lse [...] and extras [4, ...] or empty. The arguments have been checked."""
    logp, entropy, lse, extra = _InplaceTokenStats.apply(  # type: ignore[no-untyped-call]
        logits, tokens, temperature, mask, extras
    )
    return logp, entropy, lse, extra


class _InplaceTokenStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        tokens: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        extras: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logp, entropy, lse, row_max, row_sum, extra = native.token_stats_forward(
            logits, tokens, temperature, mask, extras
        )
        ctx.save_for_backward(logits, tokens, temperature, mask, entropy, row_max, row_sum)
        ctx.mark_non_differentiable(extra)
        return logp, entropy, lse, extra

    @staticmethod
    @first_order("token_stats")
    def backward(
        ctx: Any, grad_logp: Tensor, grad_entropy: Tensor, grad_lse: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        logits, tokens, temperature, mask, *row_stats = ctx.saved_tensors
        gradient = logits.detach()
        per_row = (*row_stats, grad_logp, grad_entropy, grad_lse)
        native.token_stats_backward(logits, tokens, temperature, mask, *per_row, out=gradient)
        # Autograd does not see the kernel's writes. With the version incremented, PyTorch reports
        # to whoever saved these logits, this function included, that they have changed.
        torch.autograd.graph.increment_version(logits)
        return gradient, None, None, None, None
