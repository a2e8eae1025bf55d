"""Advantages for the best of k samples. No gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.advantages.group import check_groups, spread_scores
from entropy_ext.rl.checks import check_bound, check_flag
from entropy_ext.rl.precision import at_least_float32

__all__ = ["pass_at_k_advantage"]


@torch.no_grad()
def pass_at_k_advantage(
    rewards: Tensor,
    prompt: Tensor,
    mask: Tensor,
    *,
    k: int,
    normalize: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """The contribution of a response to the best reward among k responses of its group.

    Over all subsets S of k of the group's n responses, M(S) = max_{j∈S} rⱼ:
    Aᵢₜ = (mean_{S∋i} M(S) − mean_S M(S)) / (std_S M(S) + eps)

    Computed in closed form: the j-th smallest reward is the greatest of C(j − 1, k − 1) subsets.
    For right and wrong answers, c of them right, mean_S M is pass@k, 1 − C(n − c, k)/C(n, k). A
    group of at most k responses has one subset and gives 0. So does a group with equal rewards, and
    one in which every subset has a best answer. k = 1 is the z-score with the biased deviation.

    No gradient.

    "Pass@k Training for Adaptively Balancing Exploration and Exploitation of Large Reasoning
    Models" (arXiv 2508.10751), for right and wrong answers; here for any rewards. The numerator is
    (1 − k/n) times the difference between the means over subsets with i and without i, and the
    latter mean does not depend on the reward of i. Without the division (normalize=False), its
    policy gradient is therefore, up to that constant, the unbiased gradient of the expected best of
    k, as in "Pass@K Policy Optimization" (arXiv 2505.15201).

    Args:
        rewards: [B] floating.
        prompt: [B] int64, the group of each response.
        mask: [B, T] bool, response tokens.
        k: size of the subsets, ≥ 1.
        normalize: divide by the standard deviation over subsets.
        eps: added to it.

    Returns:
        [B, T] of the rewards' dtype, at least float32; 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    groups = check_groups(rewards, prompt, mask, "zero")
    check_bound("k", k, at_least=1, integer=True)
    check_flag("normalize", normalize)
    check_bound("eps", eps, above=0, finite=True)
    # Subtract the best reward first: if every subset has a best answer, all is exactly 0 from here
    # on.
    rewards = at_least_float32(rewards)
    offset = (rewards - groups.max(rewards)).double()
    n, below = groups.size, groups.rank(offset)
    greatest_of = k / n.double() * _chosen(below, n - 1, k - 1)
    mean = groups.sum(offset * greatest_of)
    # A subset with i has k − 1 others: either i is the greatest, or one of those above it.
    own = _chosen(below, n - 1, k - 1) * offset
    beside = (k - 1) / (n - 1).clamp(min=1).double() * _chosen(below - 1, n - 2, k - 2)
    scores = own + groups.sum_above(offset * beside, offset) - mean
    if normalize:
        spread = groups.sum(greatest_of * (offset - mean).square()).sqrt()
        scores = scores / (spread + eps)
    scores = torch.where(n > k, scores, 0.0).to(rewards.dtype)
    return spread_scores(scores, rewards, groups, mask, "zero")


def _chosen(of: Tensor, out_of: Tensor, k: int) -> Tensor:
    """C(of, k)/C(out_of, k), float64: 0 where of < k, and for k < 0; [B] each."""
    if k < 0:
        return torch.zeros(of.shape, dtype=torch.float64, device=of.device)
    taken = torch.arange(k, device=of.device)
    factors = (of.unsqueeze(-1) - taken).double() / (out_of.unsqueeze(-1) - taken).clamp(min=1)
    return factors.clamp(min=0).prod(-1)
