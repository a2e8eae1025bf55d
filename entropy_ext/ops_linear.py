"""The chunked head as torch operators: entropy_ext::linear_token_stats_forward and …_backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from entropy_ext import native
from entropy_ext.inputs import STATS_DTYPE, check_rows
from entropy_ext.projection import (
    Gradients,
    Projection,
    check_projection,
    flatten_rows,
    rows_of,
)

__all__ = ["linear_token_stats_backward", "linear_token_stats_forward"]

_Stats = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("entropy_ext::linear_token_stats_forward", mutates_args=())
def linear_token_stats_forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    extras: bool,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden [..., D], weight [V, D] → logp, entropy, lse, row_max, row_sum, extras [4, ...]."""
    check_rows(tokens, temperature, mask, len(weight))
    results = _empty_results(hidden, tokens, extras)
    extra_rows = results[5].flatten(1) if extras else ()
    flat_results = [*(x.view(-1) for x in results[:5]), *extra_rows]
    flat, tokens, temperature, mask = flatten_rows(hidden, tokens, temperature, mask)
    for rows, _, logits in Projection(flat, weight, bias, mask, chunk):
        *parts, extra = native.token_stats_forward(
            logits, *rows_of(rows, tokens, temperature, mask), extras
        )
        for whole, part in zip(flat_results, [*parts, *extra], strict=True):
            whole[rows] = part
    return results


@torch.library.custom_op("entropy_ext::linear_token_stats_backward", mutates_args=())
def linear_token_stats_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    entropy: Tensor,
    row_max: Tensor,
    row_sum: Tensor,
    grad_logp: Tensor,
    grad_entropy: Tensor,
    grad_lse: Tensor,
    needs: list[bool],
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; empty where not needed. The logits are formed again."""
    gradients = Gradients(hidden, weight, bias, needs, chunk)
    per_token = [
        x.reshape(-1) for x in (entropy, row_max, row_sum, grad_logp, grad_entropy, grad_lse)
    ]
    flat, tokens, temperature, mask = flatten_rows(hidden, tokens, temperature, mask)
    for rows, inputs, logits in Projection(flat, weight, bias, mask, chunk):
        native.token_stats_backward(
            logits,
            *rows_of(rows, tokens, temperature, mask),
            *(x[rows] for x in per_token),
            out=logits,
        )
        gradients.add(rows, inputs, logits)
    grads = (gradients.hidden, gradients.weight, gradients.bias)
    empty = [hidden.new_empty(0) for _ in grads]
    first, second, third = (e if g is None else g for g, e in zip(grads, empty, strict=True))
    return first, second, third


@linear_token_stats_forward.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    extras: bool,
    chunk: int,
) -> _Stats:
    check_projection(hidden, weight, bias)
    return _empty_results(hidden, tokens, extras)


@linear_token_stats_backward.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    entropy: Tensor,
    row_max: Tensor,
    row_sum: Tensor,
    grad_logp: Tensor,
    grad_entropy: Tensor,
    grad_lse: Tensor,
    needs: list[bool],
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (hidden, weight, hidden if bias is None else bias)
    first, second, third = (
        torch.empty_like(x, memory_format=torch.contiguous_format) if need else x.new_empty(0)
        for x, need in zip(inputs, needs, strict=True)
    )
    return first, second, third


def _empty_results(hidden: Tensor, tokens: Tensor, extras: bool) -> _Stats:
    dtype = STATS_DTYPE[hidden.dtype]
    logp, entropy, lse, row_max, row_sum = (
        hidden.new_empty(tokens.shape, dtype=dtype) for _ in range(5)
    )
    extra = hidden.new_empty((4, *tokens.shape) if extras else (0,), dtype=dtype)
    return logp, entropy, lse, row_max, row_sum, extra


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Stats) -> None:
    hidden, weight, bias, tokens, temperature, mask, _, ctx.chunk = inputs
    _, entropy, _, row_max, row_sum, _ = output
    ctx.save_for_backward(
        hidden, weight, bias, tokens, temperature, mask, entropy, row_max, row_sum
    )


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:3])
    found = linear_token_stats_backward(*ctx.saved_tensors, *grads[:3], needs, ctx.chunk)
    wanted = (g if need else None for g, need in zip(found, needs, strict=True))
    return (*wanted, None, None, None, None, None)


linear_token_stats_forward.register_autograd(_backward, setup_context=_setup_context)


def _no_double_backward(ctx: Any, *grads: Tensor) -> Tensor:
    raise RuntimeError(
        "linear_token_stats has no double backward: call backward without create_graph"
    )


linear_token_stats_backward.register_autograd(_no_double_backward)
