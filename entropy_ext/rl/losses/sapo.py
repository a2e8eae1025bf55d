"""SAPO: a soft gate instead of the clip."""

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

__all__ = ["sapo"]


def sapo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> TokenLoss:
    """A sigmoid of the ratio, whose slope decreases as the ratio moves away from 1.

    With ρ = exp(logp − old_logp) and τ by the sign of A:  L = −A·(4/τ)·σ(τ(ρ − 1)).

    Gradient flows to logp: −A·ρ·4σ(1 − σ), which is −A at ρ = 1; 0 where the log-ratio is clamped
    and where logp or old_logp is not finite.

    "Soft Adaptive Policy Optimization" (arXiv 2511.20347).

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        tau_positive: τ where A > 0; with a larger value the slope decreases faster.
        tau_negative: τ elsewhere.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, gate (Σ 4σ(1 − σ) over tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_bound("tau_positive", tau_positive, above=0)
    check_bound("tau_negative", tau_negative, above=0)
    log_rho, nonfinite = log_ratio(logp, old_logp, mask)
    gain = torch.where(mask, advantages, 0.0).detach()
    tau = torch.where(gain > 0, gain.new_full((), tau_positive), tau_negative)
    share = torch.sigmoid(tau * log_rho.expm1())
    gate = torch.where(mask, 4 * share.detach() * (1 - share.detach()), 0.0)
    loss = torch.where(mask, -gain * 4 / tau * share, 0.0)
    return TokenLoss(loss, {**ratio_metrics(log_rho, mask, nonfinite), "gate": gate.sum()})
