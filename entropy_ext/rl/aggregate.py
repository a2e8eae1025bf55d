"""From a loss per token to one number."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_choice, check_tensor

__all__ = ["Aggregation", "aggregate", "check_aggregation", "count"]

Aggregation = Literal[
    "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"
]


def aggregate(
    loss: Tensor,
    mask: Tensor,
    mode: Aggregation,
    *,
    normalizer: Tensor | float | None = None,
    max_length: int | None = None,
) -> Tensor:
    """Average a loss per token over tokens or sequences.

    With lᵢ = Σₜ mᵢₜ and N the normaliser:

    - token-mean:              Σᵢₜ mᵢₜLᵢₜ / N                 N counts tokens
    - seq-mean-token-mean:     Σᵢ (Σₜ mᵢₜLᵢₜ / lᵢ) / N        N counts sequences
    - seq-mean-token-sum:      Σᵢ Σₜ mᵢₜLᵢₜ / N               N counts sequences
    - seq-mean-token-sum-norm: Σᵢ (Σₜ mᵢₜLᵢₜ / C) / N         N counts sequences, C is max_length

    If the normaliser is the count of the whole mini-batch, the results of its micro-batches add up
    to the result of the mini-batch; seq-mean-token-mean also requires that no sequence is split.
    Sequences without a token are not counted, and an empty mask gives 0.

    Gradient flows to loss where mask is True; other entries may hold NaN and receive 0.

    Args:
        loss: [B, T] floating.
        mask: [B, T] bool.
        mode: one of the four above.
        normalizer: N, a number or a 0-d tensor; None: the `count` of this mask.
        max_length: C, in tokens; None: T. Only for seq-mean-token-sum-norm.

    Returns:
        0-d tensor of loss's dtype.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or mode.
    """
    check_aggregation(mode)
    check_tensor("loss", loss, ndim=2, floating=True)
    check_tensor("mask", mask, shape=loss.shape, dtype=torch.bool)
    if normalizer is None:
        normalizer = count(mask, mode)
    elif not isinstance(normalizer, Tensor):
        check_bound("normalizer", normalizer, at_least=0)
        normalizer = torch.full((), normalizer, dtype=loss.dtype, device=loss.device)
    else:
        check_tensor("normalizer", normalizer, shape=())

    loss = torch.where(mask, loss, 0.0)
    if mode == "seq-mean-token-mean":
        loss = loss / mask.sum(-1, keepdim=True).clamp(min=1)
    elif mode == "seq-mean-token-sum-norm":
        length = mask.shape[-1] if max_length is None else max_length
        check_bound("max_length", length, at_least=1)
        loss = loss / length
    # If empty, divide by 1 rather than by 0. A mean over ranks may be a fraction, so the count
    # cannot be clamped to 1.
    return loss.sum() / torch.where(normalizer > 0, normalizer, 1).to(loss.dtype)


def count(mask: Tensor, mode: Aggregation, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """The divisor of `aggregate`: the number of tokens in mask, or of sequences that have any.

    Args:
        mask: [B, T] bool.
        mode: one of the four of `aggregate`.
        group: ranks that hold the other parts of the mini-batch. The result is the mean of their
            counts, so that the mean of their losses is the loss of the whole mini-batch.

    Returns:
        0-d int64 tensor; the counts of micro-batches add up to that of the mini-batch. With a
        group, 0-d float32.
    """
    check_aggregation(mode)
    check_tensor("mask", mask, ndim=2, dtype=torch.bool)
    counted = mask.sum() if mode == "token-mean" else mask.any(-1).sum()
    if group is None:
        return counted
    dist.all_reduce(counted, group=group)
    return counted / dist.get_world_size(group)


def check_aggregation(mode: str) -> None:
    """Raise ValueError unless mode names an aggregation."""
    check_choice("mode", mode, get_args(Aggregation))
