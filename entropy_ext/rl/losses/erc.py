"""ERC: no gradient for tokens whose entropy has changed too much."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor

__all__ = ["entropy_ratio_mask"]


@torch.no_grad()
def entropy_ratio_mask(
    entropy: Tensor,
    old_entropy: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.05,
    clip_high: float = 0.05,
) -> Tensor:
    """Marks tokens whose entropy is still near its old value.

    True where 1 − clip_low < e < 1 + clip_high, e = (H + 1e-8)/(H_old + 1e-8), both strict.

    No gradient. The loss of the other tokens is detached, but still counts in the mean.

    "Entropy Ratio Clipping" (arXiv 2512.05591), as in Kwai-Klear/ERC, whose configuration has the
    wider default 0.2 / 0.2.

    Args:
        entropy: [B, T] floating, nats, of the policy being trained.
        old_entropy: [B, T], nats, of the policy before the first update.
        mask: [B, T] bool.
        clip_low: in [0, 1].
        clip_high: ≥ 0.

    Returns:
        [B, T] bool, False off the mask and where either entropy is not finite.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_tensor("entropy", entropy, ndim=2, floating=True)
    check_tensor("old_entropy", old_entropy, shape=entropy.shape, floating=True)
    check_tensor("mask", mask, shape=entropy.shape, dtype=torch.bool)
    check_bound("clip_low", clip_low, at_least=0, at_most=1)
    check_bound("clip_high", clip_high, at_least=0)
    change = (entropy + 1e-8) / (old_entropy + 1e-8)
    return mask & (change > 1 - clip_low) & (change < 1 + clip_high)
