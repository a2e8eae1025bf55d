"""The clipped policy-gradient loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses.token_loss import (
    TokenLoss,
    check_loss_inputs,
    log_ratio,
    ratio_metrics,
)

__all__ = ["held_by_clip", "ppo_clip"]


def ppo_clip(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    max_log_ratio: float = 20.0,
) -> TokenLoss:
    """Clipped policy-gradient loss, with separate lower and upper bounds.

    With ρ = exp(logp − old_logp):
    L = max(−A·ρ, −A·clip(ρ, 1 − clip_low, 1 + clip_high)), and with a dual clip c, for A < 0:
    min(L, −A·c).

    Gradient flows to logp: −A·ρ inside the bounds, 0 where the loss is clipped, where the
    log-ratio is clamped, and where logp or old_logp is not finite (the ratio counts as 1 there).

    "Proximal Policy Optimization Algorithms" (arXiv 1707.06347, eq. 7); separate bounds: DAPO
    (arXiv 2503.14476, eq. 10); dual clip: arXiv 1912.09729, eq. 5.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats, of the policy in the denominator of the ratio.
        advantages: [B, T].
        mask: [B, T] bool.
        clip_low: the ratio may fall to 1 − clip_low, 0 ≤ clip_low ≤ 1.
        clip_high: the ratio may rise to 1 + clip_high, clip_high ≥ 0.
        dual_clip: c > 1, or None for no dual clip.
        max_log_ratio: bound on |logp − old_logp| before it is exponentiated, nats.

    Returns:
        TokenLoss; metrics tokens, clip_low, clip_high, dual_clip (tokens whose loss is at that
        bound), kl_old (Σ ρ − 1 − ln ρ, nats) and nonfinite_logp (tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_bound("clip_low", clip_low, at_least=0, at_most=1)
    check_bound("clip_high", clip_high, at_least=0)
    check_bound("max_log_ratio", max_log_ratio, above=0)
    if dual_clip is not None:
        check_bound("dual_clip", dual_clip, above=1)

    log_rho, nonfinite = log_ratio(logp, old_logp, mask, max_log_ratio=max_log_ratio)
    ratio = log_rho.exp()
    gain = torch.where(mask, advantages, 0.0).detach()
    held_low, held_high = held_by_clip(ratio, gain, clip_low=clip_low, clip_high=clip_high)
    held_dual = (gain < 0) & (ratio > (math.inf if dual_clip is None else dual_clip))

    bounded = torch.where(held_high, 1 + clip_high, ratio)
    bounded = torch.where(held_low, 1 - clip_low, bounded)
    if dual_clip is not None:
        bounded = torch.where(held_dual, dual_clip, bounded)
    loss = torch.where(mask, -gain * bounded, 0.0)

    metrics = {
        **ratio_metrics(log_rho, mask, nonfinite),
        "clip_low": held_low.sum(),
        "clip_high": held_high.sum(),
        "dual_clip": held_dual.sum(),
    }
    return TokenLoss(loss, metrics)


def held_by_clip(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """[B, T] bool each: tokens whose clipped loss is at the lower, and at the upper bound."""
    held_low = (advantages < 0) & (ratio < 1 - clip_low)
    held_high = (advantages > 0) & (ratio > 1 + clip_high)
    return held_low, held_high
