"""GPG's advantages. No gradient."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.advantages.group import Singleton, check_groups, spread_scores
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.precision import at_least_float32

__all__ = ["gpg"]


@torch.no_grad()
def gpg(
    rewards: Tensor,
    prompt: Tensor,
    mask: Tensor,
    *,
    scale: float = 1.0,
    singleton: Singleton = "zero",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Reward minus the group's mean, scaled up when few responses earn a reward.

    Aᵢₜ = α·(rᵢ − mean_g(r))/scale, α = B/(number of nonzero rewards), or 1 if all are 0.

    No gradient. "GPG: A Simple and Strong Reinforcement Learning Baseline" (arXiv 2504.02546), with
    α as in verl.

    Args:
        rewards: [B] floating.
        prompt: [B] int64, the group of each response.
        mask: [B, T] bool, response tokens.
        scale: > 0.
        singleton: the advantage of a response alone in its group: "zero", or its "reward".
        group: ranks that hold the other responses.

    Returns:
        [B, T] of the rewards' dtype, at least float32; 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype, bound or option.
    """
    check_bound("scale", scale, above=0)
    groups = check_groups(rewards, prompt, mask, singleton)
    rewards = at_least_float32(rewards)
    size = torch.full((), len(rewards), dtype=torch.int64, device=rewards.device)
    counts = torch.stack([size, (rewards != 0).sum()]).to(rewards.dtype)
    if group is not None:
        dist.all_reduce(counts, group=group)
    alpha = torch.where(counts[1] > 0, counts[0] / counts[1].clamp(min=1), 1.0)
    scores = alpha * groups.centred(rewards) / scale
    return spread_scores(scores, rewards, groups, mask, singleton)
