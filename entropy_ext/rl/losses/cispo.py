"""CISPO: the clip bounds the importance weight, not the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses.token_loss import (
    TokenLoss,
    check_loss_inputs,
    log_ratio,
    ratio_metrics,
)

__all__ = ["cispo"]


def cispo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 1.0,
    clip_high: float = 0.2,
) -> TokenLoss:
    """Log-likelihood, weighted by the advantage and the clipped ratio.

    With ρ = exp(logp − old_logp):  L = −sg(clip(ρ, 1 − clip_low, 1 + clip_high))·A·logp.

    Gradient flows to logp at every token, −A·clip(ρ), including those where PPO's clip would remove
    it; 0 where logp or old_logp is not finite.

    "MiniMax-M1" (arXiv 2506.13585). verl and slime bound the ratio by 1 ± clip; TRL and
    ms-swift cap it at an absolute epsilon_high, which is clip_high = epsilon_high − 1 (5 in
    ScaleRL's runs: clip_high=4).

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        clip_low: the weight is at least 1 − clip_low; 1 is no lower bound.
        clip_high: the weight is at most 1 + clip_high.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, clip_low and clip_high (tokens whose
        weight is at the bound, whatever their advantage).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_bound("clip_low", clip_low, at_least=0, at_most=1)
    check_bound("clip_high", clip_high, at_least=0)
    log_rho, nonfinite = log_ratio(logp.detach(), old_logp, mask)
    ratio = log_rho.exp()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    gain = torch.where(mask, advantages, 0.0).detach()
    loss = torch.where(mask & ~nonfinite, -weight * gain * logp, 0.0)
    metrics = {
        **ratio_metrics(log_rho, mask, nonfinite),
        "clip_low": (mask & (ratio < 1 - clip_low)).sum(),
        "clip_high": (mask & (ratio > 1 + clip_high)).sum(),
    }
    return TokenLoss(loss, metrics)
