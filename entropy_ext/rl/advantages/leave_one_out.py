"""RLOO's baseline. No gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.advantages.group import Singleton, check_groups, spread_scores

__all__ = ["leave_one_out"]


@torch.no_grad()
def leave_one_out(
    rewards: Tensor, prompt: Tensor, mask: Tensor, *, singleton: Singleton = "zero"
) -> Tensor:
    """Reward minus the mean of the other responses in the group.

    Aᵢₜ = rᵢ − (1/(G − 1))·Σ_{j≠i} rⱼ = G/(G − 1)·(rᵢ − mean_g(r))

    No gradient. A group of equal rewards gives exactly 0.

    "Back to Basics: Revisiting REINFORCE Style Optimization" (arXiv 2402.14740).

    Args:
        rewards: [B] floating.
        prompt: [B] int64, the group of each response.
        mask: [B, T] bool, response tokens.
        singleton: the advantage of a response alone in its group: "zero", or its "reward".

    Returns:
        [B, T] of the rewards' dtype, at least float32; 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or option.
    """
    groups = check_groups(rewards, prompt, mask, singleton)
    others = (groups.size - 1).clamp(min=1)
    scores = groups.centred(rewards) * groups.size / others
    return spread_scores(scores, rewards, groups, mask, singleton)
