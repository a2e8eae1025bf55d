"""Group-relative advantages: one number per response, repeated over its tokens. No gradient."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_choice, check_tensor
from entropy_ext.rl.groups import Groups

__all__ = ["Singleton", "check_groups", "group_mean", "group_zscore", "spread_scores"]

Singleton = Literal["zero", "reward"]


def group_mean(
    rewards: Tensor, prompt: Tensor, mask: Tensor, *, singleton: Singleton = "zero"
) -> Tensor:
    """Reward minus the group's mean.

    Aᵢₜ = rᵢ − mean_g(r)

    No gradient. "Understanding R1-Zero-Like Training" (arXiv 2503.20783) argues for leaving out
    the division by the standard deviation.

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
    with torch.no_grad():
        return spread_scores(groups.centred(rewards), rewards, groups, mask, singleton)


def group_zscore(
    rewards: Tensor,
    prompt: Tensor,
    mask: Tensor,
    *,
    eps: float = 1e-6,
    unbiased: bool = True,
    singleton: Singleton = "zero",
) -> Tensor:
    """Reward minus the group's mean, divided by the group's standard deviation.

    Aᵢₜ = (rᵢ − mean_g(r)) / (std_g(r) + eps)

    No gradient. A group of equal rewards gives exactly 0, whatever the rewards are.
    DeepSeekMath (arXiv 2402.03300), section 4.1.2.

    Args:
        rewards: [B] floating.
        prompt: [B] int64, the group of each response.
        mask: [B, T] bool, response tokens.
        eps: added to the standard deviation.
        unbiased: divide the squares by G − 1 instead of G.
        singleton: the advantage of a response alone in its group: "zero", or its "reward".

    Returns:
        [B, T] of the rewards' dtype, at least float32; 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or option.
    """
    check_bound("eps", eps, above=0)
    groups = check_groups(rewards, prompt, mask, singleton)
    with torch.no_grad():
        scores = groups.centred(rewards) / (groups.std(rewards, unbiased=unbiased) + eps)
        return spread_scores(scores, rewards, groups, mask, singleton)


def check_groups(
    rewards: Tensor, prompt: Tensor, mask: Tensor, singleton: Singleton = "zero"
) -> Groups:
    """The groups of a batch, after checking the arguments."""
    check_tensor("mask", mask, ndim=2, dtype=torch.bool)
    check_tensor("rewards", rewards, shape=mask.shape[:1], floating=True)
    check_tensor("prompt", prompt, shape=mask.shape[:1], dtype=torch.int64)
    check_choice("singleton", singleton, get_args(Singleton))
    return Groups(prompt)


def spread_scores(
    scores: Tensor, rewards: Tensor, groups: Groups, mask: Tensor, singleton: Singleton
) -> Tensor:
    """[B, T]: the score of each response at its tokens, 0 elsewhere."""
    if singleton == "reward":
        scores = torch.where(groups.size == 1, rewards.to(scores.dtype), scores)
    return torch.where(mask, scores.unsqueeze(-1), 0.0)
