"""The tokens of a whole mini-batch, however many ranks hold it: means, and ids. No gradient."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.checks import check_tensor

__all__ = ["masked_mean", "token_ids"]


@torch.no_grad()
def masked_mean(values: Tensor, mask: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Mean of values over the tokens where mask is True.

    Args:
        values: [B, T] floating; may hold NaN where mask is False.
        mask: [B, T] bool.
        group: ranks that hold the other tokens; each gets the mean over all of them.

    Returns:
        0-d tensor of values' dtype, NaN if there is no token.

    Raises:
        ValueError, TypeError: a wrong shape or dtype.
    """
    check_tensor("values", values, floating=True)
    check_tensor("mask", mask, shape=values.shape, dtype=torch.bool)
    sums = torch.stack([torch.where(mask, values, 0.0).sum(), mask.sum().to(values.dtype)])
    if group is not None:
        dist.all_reduce(sums, group=group)
    return sums[0] / sums[1]


def token_ids(mask: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor | None:
    """A number for each token that no other rank uses; the selectors need it with a group.

    Args:
        mask: [B, T] bool; ranks may differ in B and T.
        group: ranks that hold the other tokens.

    Returns:
        [B, T] int64, or None without a group: a selector then numbers the tokens by itself.
    """
    if group is None:
        return None
    own = torch.arange(mask.numel(), device=mask.device).view(mask.shape)
    return own * dist.get_world_size(group) + dist.get_rank(group)
