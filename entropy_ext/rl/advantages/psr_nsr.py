"""Advantages that depend only on whether the answer is right. No gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor

__all__ = ["psr_nsr"]


@torch.no_grad()
def psr_nsr(
    correct: Tensor,
    mask: Tensor,
    *,
    positive: float = 0.1,
    negative: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Reinforces right answers and discourages wrong ones, each with its own weight.

    Aᵢₜ = positive if response i is right, else −negative.

    No gradient. There is no baseline, so groups that are all right or all wrong have an effect too.
    With positive and negative at 1 this is plain REINFORCE with rewards ±1; positive at 0.1 is
    W-REINFORCE.

    "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning" (arXiv 2506.01347).

    Args:
        correct: [B] bool.
        mask: [B, T] bool, response tokens.
        positive: ≥ 0.
        negative: ≥ 0.
        dtype: of the result.

    Returns:
        [B, T], 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_tensor("mask", mask, ndim=2, dtype=torch.bool)
    check_tensor("correct", correct, shape=mask.shape[:1], dtype=torch.bool)
    check_bound("positive", positive, at_least=0)
    check_bound("negative", negative, at_least=0)
    right = (mask & correct.unsqueeze(-1)).to(dtype)
    wrong = (mask & ~correct.unsqueeze(-1)).to(dtype)
    return positive * right - negative * wrong
