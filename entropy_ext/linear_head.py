"""Token statistics from hidden states, without forming the logits of all tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from entropy_ext import native, ops, ops_linear
from entropy_ext.autograd import first_order, refuse_forward_mode, refuse_other_leaves
from entropy_ext.inputs import (
    STATS_DTYPE,
    check_flag,
    check_inputs,
    check_rows,
    check_scale,
    check_tensors,
    dtype_name,
    has_data,
    temperature_tensor,
)
from entropy_ext.projection import (
    Gradients,
    Projection,
    check_projection,
    chunk_rows,
    flatten_rows,
    rows_of,
)
from entropy_ext.token_stats import TokenStats

__all__ = ["linear_token_loss", "linear_token_stats"]

# Number of entries of a half-precision gradient that are scaled in float32 at a time.
_SCALED_AT_ONCE = 1 << 22

ChunkLoss = Callable[[TokenStats, slice], Tensor]


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    chunk_tokens: int | None = None,
    extras: bool = False,
) -> TokenStats:
    """token_stats of hidden·weightᵀ + bias, with only one chunk of logits in memory at a time.

    Gradient flows to hidden, weight and bias through logp, entropy and lse, as in `token_stats`:
    dhidden = dz·weight, dweight = dzᵀ·hidden, dbias = Σ dz. The backward pass forms the logits
    again, so there are four matrix products in total; `linear_token_loss` needs three. Sums over
    chunks are float32.

    Args:
        hidden: [..., D] float32, bfloat16, float16 or float64.
        weight: [V, D], of the same dtype.
        tokens: [...] int64 in [0, V).
        bias: [V], of the same dtype.
        temperature: τ > 0, a number or a [...] tensor of float32 (float64 for float64 hidden).
        mask: [...] bool; where it is False, hidden may hold anything and receives gradient 0.
        chunk_tokens: tokens per chunk; None: as many as fit in 256 MiB of logits (CUDA: 1 GiB).
        extras: also return collision, collision_logp, varentropy and max_logp.

    Returns:
        TokenStats of [...] tensors, float32 (float64 for float64 hidden).

    Raises:
        TypeError, ValueError: as `token_stats`; hidden, weight and bias that do not match.
    """
    tau = _checked_temperature(hidden, weight, tokens, bias, temperature, mask)
    check_flag("extras", extras)
    refuse_forward_mode("linear_token_stats", hidden, weight, bias, tau)
    chunk = chunk_rows(hidden, len(weight), chunk_tokens)
    logp, entropy, lse, _, _, extra = ops_linear.linear_token_stats_forward(
        hidden, weight, bias, tokens, tau, mask, extras, chunk
    )
    return TokenStats(logp, entropy, lse, *(extra.detach().unbind() if extras else ()))


def linear_token_loss(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    token_loss: ChunkLoss,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    chunk_tokens: int | None = None,
    align: int = 1,
    extras: bool = False,
    grad_scale: float | Tensor = 1.0,
) -> tuple[Tensor, TokenStats]:
    """A loss of token statistics, whose gradients are formed while each chunk's logits exist.

    loss = Σᵢ token_loss(statsᵢ), with statsᵢ = `token_stats` of z = hidden·weightᵀ + bias.

    Gradient flows to hidden, weight and bias; it is computed in the forward pass, with three matrix
    products in total, and scaled in the backward pass. No gradient flows anywhere else: a
    token_loss whose value depends on another tensor that requires a gradient is refused.

    If the loss needs statistics of the whole batch (moments, a selection, a normaliser), compute
    them first with `linear_token_stats` under no_grad; token_loss then indexes them with `rows`.

    Args:
        hidden, weight, tokens, bias, temperature, mask, chunk_tokens, extras: as in
            `linear_token_stats`.
        token_loss: (stats, rows) → loss [n]: the contribution of each token to the final loss,
            including the normaliser. stats are those of the n tokens at `rows`, a slice of the
            flattened tokens. Called once per chunk, in order.
        align: chunks begin at multiples of this number of tokens; use T for hidden [B, T, D] if
            token_loss needs whole sequences.
        grad_scale: a number or a 0-d tensor; gradients are stored multiplied by it, and divided by
            it in the backward pass. In float16, where small gradients would underflow before the
            scale of the loss is applied, pass that scale, such as GradScaler.get_scale().

    Returns:
        The sum of the losses, 0-d, and TokenStats of [...] tensors that carry no gradient.

    Raises:
        TypeError, ValueError: as `linear_token_stats`; a token_loss whose shape is not [n], or that
            depends on another tensor that requires a gradient.
    """
    tau = _checked_temperature(hidden, weight, tokens, bias, temperature, mask)
    check_flag("extras", extras)
    if not callable(token_loss):
        raise TypeError(f"token_loss: expected a function, got {type(token_loss).__name__}")
    check_scale("grad_scale", grad_scale)
    refuse_forward_mode("linear_token_loss", hidden, weight, bias, tau)
    chunk = chunk_rows(hidden, len(weight), chunk_tokens, align)
    loss, *fields = _apply(
        hidden, weight, bias, tokens, tau, mask, token_loss, chunk, extras, grad_scale
    )
    return loss, TokenStats(*fields)


def _call(*arguments: Any) -> tuple[Tensor, ...]:
    results: tuple[Tensor, ...] = _LinearTokenLoss.apply(  # type: ignore[no-untyped-call]
        *arguments, torch.is_grad_enabled()
    )
    return results


# The user's function is called for each chunk, between kernels that are opaque to the compiler.
_apply = torch.compiler.disable(_call, reason="linear_token_loss runs outside torch.compile")


class _LinearTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        token_loss: ChunkLoss,
        chunk: int,
        extras: bool,
        grad_scale: float | Tensor,
        record: bool,
    ) -> tuple[Tensor, ...]:
        real = has_data(tokens)
        if real:
            check_rows(tokens, temperature, mask, len(weight))
        shape = tokens.shape
        flat, tokens, temperature, mask = flatten_rows(hidden, tokens, temperature, mask)
        needs = tuple(record and need for need in ctx.needs_input_grad[:3])
        gradients = Gradients(hidden, weight, bias, needs, chunk)
        dtype = STATS_DTYPE[hidden.dtype]
        total = torch.zeros((), dtype=dtype, device=hidden.device)
        results = hidden.new_empty((7 if extras else 3, len(tokens)), dtype=dtype)
        for rows, inputs, logits in Projection(flat, weight, bias, mask, chunk):
            row_inputs = rows_of(rows, tokens, temperature, mask)
            *stats, row_max, row_sum, extra, _ = ops.token_stats_forward(
                logits, *row_inputs, extras
            )
            for whole, part in zip(results, [*stats, *extra] if extras else stats, strict=True):
                whole[rows] = part
            share, grads = _loss_and_gradients(
                token_loss, stats, extra, rows, extras, any(needs), grad_scale
            )
            total += share
            if any(needs):
                if real:
                    native.token_stats_backward(
                        logits, *row_inputs, stats[1], row_max, row_sum, *grads, out=logits
                    )
                gradients.add(rows, inputs, logits)
        # Their values are not needed again, but with create_graph the gradients are tied to them.
        ctx.save_for_backward(hidden, weight, bias)
        ctx.gradients = (gradients.hidden, gradients.weight, gradients.bias)
        ctx.grad_scale = grad_scale
        fields = [x.view(shape) for x in results]
        ctx.mark_non_differentiable(*fields)
        return total, *fields

    @staticmethod
    @first_order("linear_token_loss")
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "linear_token_loss: backward was called before, and its gradients were handed out; "
                "call linear_token_loss again"
            )
        # Handed out instead of copied, because they are the largest tensors in memory.
        factor = grad_loss / ctx.grad_scale
        for gradient in ctx.gradients:
            if gradient is not None:
                _scale(gradient, factor)
        handed_out, ctx.gradients = ctx.gradients, None
        return (*handed_out, *(None for _ in range(8)))


def _scale(gradient: Tensor, factor: Tensor) -> None:
    """gradient *= factor, without rounding the factor to half precision."""
    if gradient.dtype in (torch.float32, torch.float64):
        gradient.mul_(factor)
        return
    for part in gradient.view(-1).split(_SCALED_AT_ONCE):
        part.copy_(part * factor.expand_as(part))


def _loss_and_gradients(
    token_loss: ChunkLoss,
    stats: list[Tensor],
    extra: Tensor,
    rows: slice,
    extras: bool,
    record: bool,
    grad_scale: float | Tensor,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss of this chunk, and its scaled gradients with respect to logp, entropy and lse."""
    leaves = [x.detach().requires_grad_(record) for x in stats]
    with torch.set_grad_enabled(record):
        loss = token_loss(TokenStats(*leaves, *(extra.unbind() if extras else ())), rows)
    if not isinstance(loss, Tensor):
        raise TypeError(f"token_loss: expected to return a tensor, got {type(loss).__name__}")
    if not loss.is_floating_point():
        raise TypeError(f"token_loss: expected a floating-point loss, got {dtype_name(loss.dtype)}")
    if loss.device != leaves[0].device:
        raise ValueError(f"token_loss: expected device {leaves[0].device}, got {loss.device}")
    if loss.shape != leaves[0].shape:
        raise ValueError(
            f"token_loss: expected a loss for each of the {len(leaves[0])} tokens of the chunk, "
            f"shape {list(leaves[0].shape)}, got {list(loss.shape)}"
        )
    if not record or not loss.requires_grad:
        return loss.detach().sum(), tuple(torch.zeros_like(x) for x in stats)
    refuse_other_leaves(loss, leaves)
    scale = torch.ones_like(loss) * grad_scale
    grads = torch.autograd.grad(loss, leaves, scale, materialize_grads=True)
    return loss.detach().sum(), grads


def _checked_temperature(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    temperature: float | Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Checks the types and shapes of all arguments; returns the temperature as a tensor."""
    check_projection(hidden, weight, bias)
    check_tensors(tokens=tokens, mask=mask)
    tau = temperature_tensor(temperature, hidden)
    # The checks of token_stats, on logits that occupy no memory.
    check_inputs(hidden.detach()[..., :1], tokens, tau, mask)
    return tau
