"""FIPO: a token counts more if the policy has moved towards the tokens that follow it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropy_ext.rl.advantages.gae import gae
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses.ppo import ppo_clip
from entropy_ext.rl.losses.token_loss import TokenLoss, check_loss_inputs, log_ratio

__all__ = ["fipo", "future_weight"]


@torch.no_grad()
def future_weight(
    log_rho: Tensor,
    mask: Tensor,
    *,
    half_life: float = 32.0,
    low: float = 1.0,
    high: float = 1.2,
) -> Tensor:
    """How far the policy has moved towards the rest of the response.

    wₜ = clip(exp(Σ_{k≥t} γ^(k−t)·ln ρₖ), low, high),  γ = 2^(−1/half_life)

    No gradient.

    FIPO, as in ms-swift.

    Args:
        log_rho: [B, T] floating, ln π/π_old, nats; no response may be split.
        mask: [B, T] bool.
        half_life: number of tokens after which a ratio counts half; γ = 0.97857 for 32.
        low: bound.
        high: bound.

    Returns:
        [B, T], 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_bound("half_life", half_life, above=0)
    check_bound("low", low, at_least=0)
    check_bound("high", high, at_least=low)
    # With values of 0, the advantage is the discounted sum of the terms that follow.
    discount = 2 ** (-1 / half_life)
    future = gae(log_rho, torch.zeros_like(log_rho), mask, gamma=discount, decay=1.0)
    return torch.where(mask, future.exp().clamp(low, high), 0.0)


def fipo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    half_life: float = 32.0,
    weight_high: float = 1.2,
    safe_ratio: float = math.inf,
) -> TokenLoss:
    """Clipped policy-gradient loss, weighted by the ratios that follow each token.

    L = w·max(−A·ρ, −A·clip(ρ, 1 − clip_low, 1 + clip_high)), w of `future_weight` within
    [1, weight_high], but within [2 − weight_high, 1] where A < 0 and ρ > safe_ratio.

    Gradient flows to logp as in `ppo_clip`, times w.

    FIPO, as in ms-swift. The value of its safety threshold on the ratio could not be found; by
    default there is none.

    Args:
        logp: [B, T] floating, nats, of the policy being trained; no response may be split.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        clip_low: the ratio may fall to 1 − clip_low.
        clip_high: the ratio may rise to 1 + clip_high.
        half_life: see `future_weight`.
        weight_high: the largest weight, 1 to 2; 1 gives `ppo_clip`.
        safe_ratio: tokens with A < 0 whose ratio exceeds this are not weighted up.

    Returns:
        TokenLoss; the metrics of `ppo_clip`, and weight (Σ w over tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_bound("weight_high", weight_high, at_least=1, at_most=2)
    check_bound("safe_ratio", safe_ratio, at_least=1)
    loss, metrics = ppo_clip(
        logp, old_logp, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    log_rho, _ = log_ratio(logp.detach(), old_logp, mask)
    bounds = {"half_life": half_life, "low": 2 - weight_high, "high": weight_high}
    weight = future_weight(log_rho, mask, **bounds)
    unsafe = (advantages < 0) & (log_rho.exp() > safe_ratio)
    weight = torch.where(unsafe, weight.clamp(max=1), weight.clamp(min=1))
    weight = torch.where(mask, weight, 0.0)
    weighted = torch.where(mask, weight * loss, 0.0)
    return TokenLoss(weighted, {**metrics, "weight": weight.sum()})
