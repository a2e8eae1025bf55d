"""Reward shaping: from what the checker said to what the learner is told. No gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor

__all__ = ["soft_overlong"]


def soft_overlong(lengths: Tensor, max_length: int, buffer: int, *, floor: float = -1.0) -> Tensor:
    """Penalty that grows over the last `buffer` tokens before the length limit.

    With l the response length, L the limit and c the buffer:
    0 for l ≤ L − c,  max(((L − c) − l)/c, floor) beyond.

    DAPO (arXiv 2503.14476, eq. 13), whose penalty stays at −1 beyond L; verl's reward manager has
    no floor (floor=−inf) and relies on generation stopping at L.

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
