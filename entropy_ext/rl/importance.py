"""Importance weights for a sampler that differs from the trainer's policy. No gradient."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_choice, check_tensor
from entropy_ext.rl.losses.token_loss import log_ratio

__all__ = ["MaskLevel", "masked_importance", "truncated_importance"]

MaskLevel = Literal["token", "sequence"]


@torch.no_grad()
def truncated_importance(
    old_logp: Tensor, rollout_logp: Tensor, mask: Tensor, *, low: float = 0.0, high: float = 2.0
) -> Tensor:
    """The ratio of trainer to sampler probabilities, clipped to bounds.

    w = clip(exp(old_logp − rollout_logp), low, high)

    No gradient. Multiplies the policy loss of each token.

    Truncated importance sampling, as in verl, TRL and OpenRLHF.

    Args:
        old_logp: [B, T] floating, nats, of the trainer's policy before the first update.
        rollout_logp: [B, T], nats, as the sampler reported them.
        mask: [B, T] bool.
        low: ≥ 0.
        high: ≥ low.

    Returns:
        [B, T], 0 off the mask; where a log-probability is not finite, 1 clipped to the bounds.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    mismatch = _mismatch(old_logp, rollout_logp, mask, low, high)
    return torch.where(mask, mismatch.exp().clamp(low, high), 0.0)


@torch.no_grad()
def masked_importance(
    old_logp: Tensor,
    rollout_logp: Tensor,
    mask: Tensor,
    *,
    low: float = 0.5,
    high: float = 5.0,
    level: MaskLevel = "token",
) -> Tensor:
    """The ratio of trainer to sampler probabilities, replaced by 0 where it is out of bounds.

    With w = exp(old_logp − rollout_logp):

    - "token":    w where low ≤ w ≤ high, else 0
    - "sequence": w where low ≤ exp(mean of ln w over the sequence) ≤ high, else 0 for all of it

    No gradient. Multiplies the policy loss of each token; tokens with weight 0 still count in the
    mean.

    IcePop ("token") and sequence-masked importance sampling, with the bounds 0.5 and 5 of NeMo-RL
    and OpenRLHF. With "sequence", no sequence may be split.

    Args:
        old_logp: [B, T] floating, nats, of the trainer's policy before the first update.
        rollout_logp: [B, T], nats, as the sampler reported them.
        mask: [B, T] bool.
        low: ≥ 0.
        high: ≥ low.
        level: whether single tokens or whole sequences are set to 0.

    Returns:
        [B, T], 0 off the mask.

    Raises:
        ValueError, TypeError: a wrong shape, dtype, bound or option.
    """
    check_choice("level", level, get_args(MaskLevel))
    mismatch = _mismatch(old_logp, rollout_logp, mask, low, high)
    judged = mismatch
    if level == "sequence":
        judged = mismatch.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    within = (judged.exp() >= low) & (judged.exp() <= high)
    return torch.where(mask & within, mismatch.exp(), 0.0)


def _mismatch(
    old_logp: Tensor, rollout_logp: Tensor, mask: Tensor, low: float, high: float
) -> Tensor:
    check_tensor("old_logp", old_logp, ndim=2, floating=True)
    check_tensor("rollout_logp", rollout_logp, shape=old_logp.shape, floating=True)
    check_tensor("mask", mask, shape=old_logp.shape, dtype=torch.bool)
    check_bound("low", low, at_least=0)
    check_bound("high", high, at_least=low)
    return log_ratio(old_logp, rollout_logp, mask)[0]
