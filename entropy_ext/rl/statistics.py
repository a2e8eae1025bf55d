"""Statistics over the tokens of a whole mini-batch, on one rank or several. No gradient."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.checks import check_tensor
from entropy_ext.rl.precision import at_least_float32
from entropy_ext.token_selection import CovarianceMoments, covariance

__all__ = ["gathered", "masked_mean", "summed", "token_covariance", "token_ids"]


@torch.no_grad()
def masked_mean(values: Tensor, mask: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Mean of values over the tokens where mask is True.

    Args:
        values: [B, T] floating; may hold NaN where mask is False.
        mask: [B, T] bool.
        group: ranks that hold the other tokens; every rank gets the mean over all tokens.

    Returns:
        0-d tensor of values' dtype, at least float32; NaN if there is no token.

    Raises:
        ValueError, TypeError: a wrong shape or dtype.
    """
    check_tensor("values", values, floating=True)
    check_tensor("mask", mask, shape=values.shape, dtype=torch.bool)
    values = at_least_float32(values)
    sums = torch.stack([torch.where(mask, values, 0.0).sum(), mask.sum().to(values.dtype)])
    if group is not None:
        dist.all_reduce(sums, group=group)
    return sums[0] / sums[1]


@torch.no_grad()
def token_covariance(
    logp: Tensor, advantages: Tensor, mask: Tensor, *, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Each token's contribution to the covariance of log-probability and advantage.

    (logp − mean logp)·(A − mean A), with means over the tokens of all ranks; see
    `entropy_ext.covariance`.

    Args:
        logp: [B, T] float32 or float64, nats, finite where mask is True.
        advantages: [B, T].
        mask: [B, T] bool.
        group: ranks that hold the other tokens.

    Returns:
        [B, T] nats, 0 where mask is False.
    """
    advantages = advantages.to(logp.dtype)
    moments = CovarianceMoments()
    moments.update(logp, advantages, mask)
    if group is not None:
        moments.all_reduce(group)
    return covariance(logp, advantages, mask, moments=moments)


@torch.no_grad()
def token_ids(mask: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """A unique number for each token of the mini-batch.

    The parts of the ranks are numbered one after the other, as if they were one tensor. They may
    differ in both dimensions.

    Args:
        mask: [B, T], for its shape and device.
        group: ranks that hold the other parts.

    Returns:
        [B, T] int64, contiguous from 0 over all ranks.
    """
    ids = torch.arange(mask.numel(), device=mask.device).view(mask.shape)
    if group is None:
        return ids
    sizes = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=mask.device)
    rank = dist.get_rank(group)
    sizes[rank] = mask.numel()
    dist.all_reduce(sizes, group=group)
    return ids + sizes[:rank].sum()


@torch.no_grad()
def summed(values: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Values of any shape, summed over the ranks of a group; unchanged without a group."""
    if group is None:
        return values
    total = values.clone()
    dist.all_reduce(total, group=group)
    return total


@torch.no_grad()
def gathered(values: Tensor, *, fill: float, group: dist.ProcessGroup | None = None) -> Tensor:
    """Values [N] of all ranks, concatenated, each padded with `fill` to the longest.

    The result is the same on every rank. With a group, the host waits for the lengths; without one,
    the values are returned unchanged.
    """
    if group is None:
        return values
    longest = torch.tensor(len(values), device=values.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX, group=group)
    padded = torch.nn.functional.pad(values, (0, int(longest) - len(values)), value=fill)
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, padded, group=group)
    return torch.cat(parts)
