"""Reward shaping: changes to the checker's rewards before learning. No gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.precision import at_least_float32

__all__ = ["cosine_length", "soft_overlong", "truncated_reward"]


def soft_overlong(lengths: Tensor, max_length: int, buffer: int, *, floor: float = -1.0) -> Tensor:
    """Penalty that grows over the last `buffer` tokens before the length limit.

    With l the response length, L the limit and c the buffer:
    0 for l ≤ L − c,  max(((L − c) − l)/c, floor) beyond.

    DAPO (arXiv 2503.14476, eq. 13), where the penalty stays at −1 beyond L. verl's reward manager
    has no floor (floor=−inf) and relies on generation stopping at L.

    Args:
        lengths: [B] integer, tokens.
        max_length: L, tokens.
        buffer: c, tokens, 0 < c ≤ L. The paper: 4096 of 20480.
        floor: the lowest penalty, ≤ 0.

    Returns:
        [B] float32, ≤ 0.

    Raises:
        ValueError, TypeError: a wrong shape or bound.
    """
    check_tensor("lengths", lengths, ndim=1)
    check_bound("max_length", max_length, at_least=1)
    check_bound("buffer", buffer, above=0, at_most=max_length)
    check_bound("floor", floor, at_least=-math.inf, at_most=0)
    excess = (lengths - (max_length - buffer)).clamp(min=0).to(torch.float32)
    return (-excess / buffer).clamp(min=floor)


def cosine_length(
    lengths: Tensor, max_length: int, *, shortest: float = 0.0, longest: float = -1.0
) -> Tensor:
    """Reward for short responses that falls along half a cosine from length 0 to the limit.

    longest + ½(shortest − longest)(1 + cos(π·l/L)), and longest beyond L.

    ProRL v2 (NVIDIA, August 2025) adds such a term on a schedule. Its formula, published as an
    image, could not be verified; this form follows from its list of symbols.

    Args:
        lengths: [B] integer, tokens.
        max_length: L, tokens.
        shortest: value at length 0.
        longest: value at the limit.

    Returns:
        [B] float32.

    Raises:
        ValueError, TypeError: a wrong shape or bound.
    """
    check_tensor("lengths", lengths, ndim=1)
    check_bound("max_length", max_length, at_least=1)
    angle = (lengths.to(torch.float32) / max_length).clamp(max=1) * math.pi
    return longest + (shortest - longest) / 2 * (1 + angle.cos())


def truncated_reward(rewards: Tensor, truncated: Tensor, *, coef: float = 0.0) -> Tensor:
    """Scales down the rewards of responses that reached the length limit.

    coef·r where truncated, r elsewhere. Meant for rewards of 0 and 1: with −1 and 1, a coef below 1
    raises the reward of truncated failures.

    "Stop properly" in ProRL v2 (NVIDIA, August 2025); NeMo-RL's default is 0. In OpenRLHF, a
    negative coefficient replaces the reward instead of scaling it.

    Args:
        rewards: [B] floating.
        truncated: [B] bool.
        coef: factor, 0 to 1.

    Returns:
        [B] of the rewards' dtype, at least float32.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_tensor("rewards", rewards, ndim=1, floating=True)
    check_tensor("truncated", truncated, shape=rewards.shape, dtype=torch.bool)
    check_bound("coef", coef, at_least=0, at_most=1)
    rewards = at_least_float32(rewards)
    return torch.where(truncated, coef * rewards, rewards)
