"""MiniRL: REINFORCE with an importance weight, and a mask in place of the clipped ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.losses.token_loss import (
    TokenLoss,
    check_loss_inputs,
    log_ratio,
    ratio_metrics,
)

__all__ = ["minirl"]


def minirl(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    rollout_logp: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.27,
    max_weight: float = 5.0,
) -> TokenLoss:
    """Log-likelihood weighted by advantage and importance, without tokens that have moved too far.

    With ρ = exp(logp − old_logp) and w = min(exp(logp − rollout_logp), max_weight):
    L = −M·sg(w)·A·logp, where M = 0 if A > 0 and ρ > 1 + clip_high, or A < 0 and
    ρ < 1 − clip_low, else 1.

    The mask considers only how far training has moved (ρ); the weight also includes the mismatch
    between trainer and sampler. Clipping the product instead would drop tokens because of a
    mismatch that training did not cause.

    Gradient flows to logp: −M·w·A; 0 where logp, old_logp or rollout_logp is not finite.

    "Stabilizing Reinforcement Learning with LLMs" (arXiv 2512.01374). Bounds and cap could not be
    verified from the paper; sail-sg/Stable-RL caps the weight at 10.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats, of the trainer's policy before the first update.
        advantages: [B, T].
        mask: [B, T] bool.
        rollout_logp: [B, T], nats, as the sampler reported them.
        clip_low: tokens with negative advantage count down to ρ = 1 − clip_low.
        clip_high: tokens with positive advantage count up to ρ = 1 + clip_high.
        max_weight: cap on the importance weight, > 0.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, clip_low and clip_high (tokens left
        out), capped (tokens at the cap).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_tensor("rollout_logp", rollout_logp, shape=logp.shape, floating=True)
    check_bound("clip_low", clip_low, at_least=0, at_most=1)
    check_bound("clip_high", clip_high, at_least=0)
    check_bound("max_weight", max_weight, above=0)

    log_rho, unknown = log_ratio(logp.detach(), old_logp, mask)
    log_weight, unsampled = log_ratio(logp.detach(), rollout_logp, mask)
    ratio, weight = log_rho.exp(), log_weight.exp()
    gain = torch.where(mask, advantages, 0.0).detach()
    held_high = (gain > 0) & (ratio > 1 + clip_high)
    held_low = (gain < 0) & (ratio < 1 - clip_low)
    nonfinite = unknown | unsampled
    counted = mask & ~nonfinite & ~held_high & ~held_low
    loss = torch.where(counted, -gain * weight.clamp(max=max_weight) * logp, 0.0)
    metrics = {
        **ratio_metrics(log_rho, mask, nonfinite),
        "clip_low": held_low.sum(),
        "clip_high": held_high.sum(),
        "capped": (mask & (weight > max_weight)).sum(),
    }
    return TokenLoss(loss, metrics)
