"""Losses with a weight per sequence: GSPO, GMPO, VESPO. No sequence may be split."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses.ppo import ppo_clip
from entropy_ext.rl.losses.token_loss import (
    TokenLoss,
    check_loss_inputs,
    log_ratio,
    ratio_metrics,
)

__all__ = ["gmpo", "gspo", "vespo"]


def gspo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> TokenLoss:
    """Clipped loss on the geometric mean of a sequence's ratios.

    With sᵢ = exp((1/lᵢ)·Σₜ ln ρᵢₜ):
    Lᵢₜ = max(−A·s, −A·clip(s, 1 − clip_low, 1 + clip_high)).

    Gradient flows to logp as if the ratio of each token were sᵢ: −A·sᵢ, the same for all tokens of
    the sequence, and 0 if the sequence is clipped. Averaged over the tokens of the sequence, this
    is the gradient of −A·sᵢ. A token whose logp or old_logp is not finite has ln ρ = 0 and no
    gradient.

    "Group Sequence Policy Optimization" (arXiv 2507.18071), the token form; averaged over each
    response and then over responses. ln s is capped at 10, as in verl.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        clip_low: s may fall to 1 − clip_low.
        clip_high: s may rise to 1 + clip_high.

    Returns:
        TokenLoss; the metrics of `ppo_clip`, clip_low and clip_high counting the tokens of clipped
        sequences, kl_old of the token ratios.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    log_rho, nonfinite = log_ratio(logp, old_logp, mask)
    mean = _sequence_mean(log_rho.detach(), mask)
    of_sequence = (log_rho - log_rho.detach() + mean).clamp(max=10)
    loss, metrics = ppo_clip(
        of_sequence,
        torch.zeros_like(of_sequence),
        advantages,
        mask,
        clip_low=clip_low,
        clip_high=clip_high,
    )
    # A token without a ratio has no gradient, but still counts as a token of its sequence.
    return TokenLoss(loss, {**metrics, **ratio_metrics(log_rho, mask, nonfinite)})


def gmpo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.4,
    clip_high: float = 0.4,
) -> TokenLoss:
    """Geometric mean of token ratios, each clipped in the direction of its advantage.

    With d = ln ρ, d′ = min(d, clip_high) where A > 0, max(d, −clip_low) where A < 0, 0 where A = 0:
    Lᵢₜ = −Aᵢₜ·exp((1/lᵢ)·Σₜ d′ᵢₜ).

    Gradient flows to logp through every d′ that is not clipped. The mean over the tokens of a
    sequence is the loss of the sequence.

    "Geometric-Mean Policy Optimization" (arXiv 2507.20673), as in verl's geo_mean.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        clip_low: bound on −ln ρ, nats.
        clip_high: bound on ln ρ, nats.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, clip_low and clip_high (tokens clipped).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_bound("clip_low", clip_low, at_least=0)
    check_bound("clip_high", clip_high, at_least=0)
    log_rho, nonfinite = log_ratio(logp, old_logp, mask)
    gain = torch.where(mask, advantages, 0.0).detach()
    held_high = (gain > 0) & (log_rho > clip_high)
    held_low = (gain < 0) & (log_rho < -clip_low)
    clipped = torch.where(held_high, clip_high, torch.where(held_low, -clip_low, log_rho))
    mean = _sequence_mean(torch.where(gain == 0, 0.0, clipped), mask)
    metrics = {
        **ratio_metrics(log_rho, mask, nonfinite),
        "clip_low": held_low.sum(),
        "clip_high": held_high.sum(),
    }
    return TokenLoss(torch.where(mask, -gain * mean.exp(), 0.0), metrics)


def vespo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    k_positive: float = 2.0,
    lambda_positive: float = 3.0,
    k_negative: float = 3.0,
    lambda_negative: float = 2.0,
) -> TokenLoss:
    """Log-likelihood weighted by a smooth, bump-shaped function of the sequence's ratio.

    With W = Πₜ ρₜ and φ(W) = W^k·exp(λ(1 − W)), (k, λ) by the sign of A:  L = −sg(φ)·A·logp.

    φ(1) = 1, and its maximum is at W = k/λ: sequences that are far off policy, on either side, get
    little weight.

    Gradient flows to logp: −φ·A; 0 where logp or old_logp is not finite.

    VESPO (arXiv 2602.10693), as in TRL. A = 0 counts as positive.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        k_positive: k where A ≥ 0.
        lambda_positive: λ where A ≥ 0.
        k_negative: k where A < 0.
        lambda_negative: λ where A < 0.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, weight (Σ φ over tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    for name, value in (
        ("k_positive", k_positive),
        ("lambda_positive", lambda_positive),
        ("k_negative", k_negative),
        ("lambda_negative", lambda_negative),
    ):
        check_bound(name, value, at_least=0)
    log_rho, nonfinite = log_ratio(logp.detach(), old_logp, mask)
    gain = torch.where(mask, advantages, 0.0).detach()
    log_w = log_rho.sum(-1, keepdim=True).clamp(-20, 20)
    falling = 1 - log_w.exp()
    positive = (k_positive * log_w + lambda_positive * falling).exp()
    negative = (k_negative * log_w + lambda_negative * falling).exp()
    weight = torch.where(mask, torch.where(gain < 0, negative, positive), 0.0)
    loss = torch.where(mask & ~nonfinite, -weight * gain * logp, 0.0)
    return TokenLoss(loss, {**ratio_metrics(log_rho, mask, nonfinite), "weight": weight.sum()})


def _sequence_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[B, 1]: mean over each sequence's tokens, 0 if it has none; values are 0 off the mask."""
    return values.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
