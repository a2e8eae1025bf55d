"""The kernels as torch operators: entropy_ext::token_stats_forward and …_backward.

The backward pass is an operator too, so that torch.compile sees both. It has no gradient of its
own, and differentiating it raises an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from entropy_ext import native, native_support
from entropy_ext.inputs import check_inputs
from entropy_ext.support import check_support

__all__ = ["token_stats_backward", "token_stats_forward"]

_Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("entropy_ext::token_stats_forward", mutates_args=())
def token_stats_forward(
    logits: Tensor,
    tokens: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    extras: bool,
    support_offsets: Tensor | None = None,
    support_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logits [..., V] → logp, entropy, lse, row_max, row_sum [...], extras, support_stats.

    The last two are [4, ...] and [5, ...] if wanted, else empty.
    """
    rows = (logits, tokens, temperature, mask)
    results = native.token_stats_forward(*rows, extras)
    if support_offsets is None or support_ids is None:
        return *results, native_support.empty_stats(logits, False)
    return *results, native_support.support_forward(*rows, support_offsets, support_ids)


@torch.library.custom_op("entropy_ext::token_stats_backward", mutates_args=())
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
    support_offsets: Tensor | None = None,
    support_ids: Tensor | None = None,
    support_stats: Tensor | None = None,
    grad_support: Tensor | None = None,
) -> Tensor:
    """The gradient of logits [..., V] from those of logp, entropy, lse [...] and support_stats."""
    saved = (logits, tokens, temperature, mask, entropy, row_max, row_sum)
    grads = (grad_logp, grad_entropy, grad_lse)
    gradient = native.token_stats_backward(*saved, *grads)
    if support_offsets is None or support_ids is None:
        return gradient
    if support_stats is None or grad_support is None:
        raise ValueError("support_stats, grad_support: expected tensors with a support, got None")
    native_support.support_backward(
        *(*saved, *grads),
        *(support_offsets, support_ids, support_stats, grad_support),
        out=gradient,
    )
    return gradient


@token_stats_forward.register_fake
def _(
    logits: Tensor,
    tokens: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    extras: bool,
    support_offsets: Tensor | None = None,
    support_ids: Tensor | None = None,
) -> _Results:
    check_inputs(logits, tokens, temperature, mask)
    if support_offsets is not None and support_ids is not None:
        check_support(support_offsets, support_ids, rows=tokens.numel(), device=logits.device)
    support_stats = native_support.empty_stats(logits, support_ids is not None)
    return *native.empty_results(logits, extras), support_stats


@token_stats_backward.register_fake
def _(logits: Tensor, *_: Tensor | None) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Results) -> None:
    logits, tokens, temperature, mask, _, support_offsets, support_ids = inputs
    _, entropy, _, row_max, row_sum, _, support_stats = output
    # One tensor of zeros serves for all results that the loss does not use.
    ctx.set_materialize_grads(False)
    # Logits are kept instead of probabilities, which the backward pass recomputes in registers.
    ctx.save_for_backward(
        *(logits, tokens, temperature, mask, entropy, row_max, row_sum),
        *((support_offsets, support_ids, support_stats) if support_ids is not None else ()),
    )


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: under checkpointing it is formed anew each time
    upstream = list(grads[:3])
    if any(grad is None for grad in upstream):
        zeros = torch.zeros_like(saved[6])
        upstream = [zeros if grad is None else grad for grad in upstream]
    support: tuple[Tensor, ...] = ()
    if len(saved) > 7:
        support = (*saved[7:], torch.zeros_like(saved[9]) if grads[6] is None else grads[6])
    grad_logits = token_stats_backward(*saved[:7], *upstream, *support)
    return grad_logits, None, None, None, None, None, None


token_stats_forward.register_autograd(_backward, setup_context=_setup_context)


def _no_double_backward(ctx: Any, *grads: Tensor) -> Tensor:
    raise RuntimeError("token_stats has no double backward: call backward without create_graph")


token_stats_backward.register_autograd(_no_double_backward)
