"""Baselines that weight responses by their length. No gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.advantages.group import Singleton, check_groups, spread_scores
from entropy_ext.rl.precision import at_least_float32

__all__ = ["opo"]


@torch.no_grad()
def opo(rewards: Tensor, prompt: Tensor, mask: Tensor, *, singleton: Singleton = "zero") -> Tensor:
    """Reward minus the baseline that minimises the variance of the policy gradient.

    b_g = Σᵢ lᵢrᵢ / Σᵢ lᵢ over the group,   Aᵢₜ = rᵢ − b_g

    The exact optimum weights rewards by ‖∇ ln π(y)‖², which is proportional to the length l if the
    gradients of tokens are orthogonal and of equal size. Since Σᵢ lᵢAᵢ = 0 in every group, a sum or
    mean over tokens has no net effect on the group as a whole. A group without any token gives 0.
    No gradient.

    "On-Policy RL with Optimal Reward Baseline" (arXiv 2505.23585). In the paper and its released
    code, a response alone in its group is its own baseline and gets 0; in verl it has no baseline
    ("reward").

    Args:
        rewards: [B] floating.
        prompt: [B] int64, the group of each response; all equal for a baseline over the batch.
        mask: [B, T] bool, response tokens.
        singleton: the advantage of a response alone in its group: "zero", or its "reward".

    Returns:
        [B, T] of the rewards' dtype, at least float32; 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or option.
    """
    groups = check_groups(rewards, prompt, mask, singleton)
    rewards = at_least_float32(rewards)
    lengths = mask.sum(-1).to(rewards.dtype)
    # Subtract a member first, so that equal rewards give exactly 0.
    offset = rewards - groups.first(rewards)
    # 0/0 in a group without a token; its advantages are off the mask.
    baseline = groups.sum(lengths * offset) / groups.sum(lengths)
    return spread_scores(offset - baseline, rewards, groups, mask, singleton)
