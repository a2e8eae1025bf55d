"""Baselines that weigh responses by their length. No gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.advantages.group import Singleton, check_groups, spread_scores
from entropy_ext.rl.precision import at_least_float32

__all__ = ["opo"]


@torch.no_grad()
def opo(rewards: Tensor, prompt: Tensor, mask: Tensor, *, singleton: Singleton = "zero") -> Tensor:
    """Reward above the baseline that makes the variance of the policy gradient least.

    b_g = Σᵢ lᵢrᵢ / Σᵢ lᵢ over the group,   Aᵢₜ = rᵢ − b_g

    The exact optimum weighs rewards by ‖∇ ln π(y)‖², which grows as the length l if the gradients
    of tokens are orthogonal and of one size. Σᵢ lᵢAᵢ = 0 in every group, so that under a sum or
    mean over tokens a group pushes neither up nor down as a whole. A group without any token
    gives 0. No gradient.

    "On-Policy RL with Optimal Reward Baseline" (arXiv 2505.23585). A response alone in its group
    is its own baseline there and in its released code (0); in verl it has none ("reward").

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
    # Measured from a member, so that equal rewards give exactly 0.
    offset = rewards - groups.first(rewards)
    # 0/0 in a group without a token, whose advantages are off the mask.
    baseline = groups.sum(lengths * offset) / groups.sum(lengths)
    return spread_scores(offset - baseline, rewards, groups, mask, singleton)
