"""The kernels as torch operators: entropy_ext::token_stats_forward and …_backward.

The backward pass is an operator too, so that torch.compile sees both; it has no gradient of its
own, and differentiating it raises.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from entropy_ext import native

__all__ = ["token_stats_backward", "token_stats_forward"]

_Stats = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("entropy_ext::token_stats_forward", mutates_args=())
def token_stats_forward(
    logits: Tensor, tokens: Tensor, temperature: Tensor, mask: Tensor | None, extras: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logits [..., V] → logp, entropy, lse, row_max, row_sum [...], extras [4, ...] or empty."""
    return native.token_stats_forward(logits, tokens, temperature, mask, extras)


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
) -> Tensor:
    """The gradient of logits [..., V] from those of logp, entropy and lse [...]."""
    return native.token_stats_backward(
        logits,
        tokens,
        temperature,
        mask,
        entropy,
        row_max,
        row_sum,
        grad_logp,
        grad_entropy,
        grad_lse,
    )


@token_stats_forward.register_fake
def _(
    logits: Tensor, tokens: Tensor, temperature: Tensor, mask: Tensor | None, extras: bool
) -> _Stats:
    native.check_inputs(logits, tokens, temperature, mask)
    return native.empty_results(logits, extras)


@token_stats_backward.register_fake
def _(
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
) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Stats) -> None:
    logits, tokens, temperature, mask, _ = inputs
    _, entropy, _, row_max, row_sum, _ = output
    # Logits are kept, not probabilities: the backward pass forms those again in registers.
    ctx.save_for_backward(logits, tokens, temperature, mask, entropy, row_max, row_sum)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
    grad_logp, grad_entropy, grad_lse = grads[:3]
    grad_logits = token_stats_backward(*ctx.saved_tensors, grad_logp, grad_entropy, grad_lse)
    return grad_logits, None, None, None, None


token_stats_forward.register_autograd(_backward, setup_context=_setup_context)


def _no_double_backward(ctx: Any, *grads: Tensor) -> Tensor:
    raise RuntimeError("token_stats has no double backward: call backward without create_graph")


token_stats_backward.register_autograd(_no_double_backward)
