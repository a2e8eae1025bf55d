"""Advantages normalised to mean 0 and variance 1 over the tokens of a whole batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.precision import at_least_float32
from entropy_ext.rl.statistics import masked_mean

__all__ = ["batch_whiten"]


@torch.no_grad()
def batch_whiten(
    advantages: Tensor,
    mask: Tensor,
    *,
    unbiased: bool = False,
    eps: float = 1e-8,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Advantages minus their mean, divided by their standard deviation, both over all tokens.

    (A − μ)/√max(σ², eps), with μ and σ² over the N tokens in mask.

    Long responses weigh more in μ, so responses with A = 0 do not keep 0 unless all have the same
    length. Drop groups without a signal first. No gradient.

    REINFORCE++ (arXiv 2501.03262), as in NeMo-RL (σ² over N). verl divides by N − 1 (unbiased=True)
    and adds eps to σ² instead of bounding it.

    Args:
        advantages: [B, T] floating.
        mask: [B, T] bool.
        unbiased: divide σ² by N − 1 instead of N.
        eps: the smallest variance to divide by.
        group: ranks that hold the other tokens of the batch.

    Returns:
        [B, T] of advantages' dtype, at least float32; 0 where mask is False and where all
        advantages are equal.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_bound("eps", eps, above=0)
    check_tensor("mask", mask, ndim=2, dtype=torch.bool)
    check_tensor("advantages", advantages, shape=mask.shape, floating=True)
    advantages = at_least_float32(advantages)
    # Subtract one of the advantages first: the computed mean of equal numbers may differ from that
    # number, and the difference would be divided by √eps.
    anchor = torch.where(mask, advantages, -torch.inf).flatten()
    anchor = torch.cat([anchor, anchor.new_full((1,), -torch.inf)]).amax()
    if group is not None:
        dist.all_reduce(anchor, op=dist.ReduceOp.MAX, group=group)
    offset = torch.where(mask, advantages - anchor, 0.0)
    centred = offset - masked_mean(offset, mask, group=group)
    variance = masked_mean(centred.square(), mask, group=group)
    if unbiased:
        count = mask.sum()
        if group is not None:
            dist.all_reduce(count, group=group)
        variance = variance * count / (count - 1).clamp(min=1)
    return torch.where(mask, centred * variance.clamp(min=eps).rsqrt(), 0.0)
