"""DCPO: wider bounds on the ratio for unlikely tokens."""

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
from entropy_ext.rl.precision import at_least_float32

__all__ = ["dcpo", "dcpo_bounds"]


@torch.no_grad()
def dcpo_bounds(
    old_logp: Tensor, *, eps_low: float = 0.16, eps_high: float = 0.2
) -> tuple[Tensor, Tensor]:
    """The lower and upper bound of each token's ratio.

    With q = exp(old_logp):
    ½ + ½·√max(1 − 4·eps_low/q, 0) ≤ ρ ≤ ½ + ½·√(1 + 4·eps_high/q)

    They solve |ρ − 1|·ρ·q = eps: the rarer the token, the further π/π_old may move away from 1. No
    gradient.

    "DCPO: Dynamic Clipping Policy Optimization" (arXiv 2509.02333); its script has eps_high 0.28.

    Args:
        old_logp: [B, T] floating, nats.
        eps_low: ≥ 0.
        eps_high: ≥ 0.

    Returns:
        The lower and the upper bound, [B, T] each, at least float32. For q below e⁻⁸⁰ they are
        those for e⁻⁸⁰; the upper one then exceeds any ratio.

    Raises:
        ValueError, TypeError: a wrong dtype or bound.
    """
    check_tensor("old_logp", old_logp, floating=True)
    check_bound("eps_low", eps_low, at_least=0, finite=True)
    check_bound("eps_high", eps_high, at_least=0, finite=True)
    # If 1/q is infinite and eps is 0, the product would be NaN.
    rarity = 4 * (-at_least_float32(old_logp)).clamp(max=80).exp()
    low = 0.5 + 0.5 * (1 - eps_low * rarity).clamp(min=0).sqrt()
    return low, 0.5 + 0.5 * (1 + eps_high * rarity).sqrt()


def dcpo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    eps_low: float = 0.16,
    eps_high: float = 0.2,
) -> TokenLoss:
    """Clipped policy-gradient loss within `dcpo_bounds`.

    With ρ = exp(logp − old_logp):  L = max(−A·ρ, −A·clip(ρ, low(π_old), high(π_old))).

    Gradient flows to logp: −A·ρ inside the bounds, 0 where the loss is clipped and where logp or
    old_logp is not finite.

    "DCPO: Dynamic Clipping Policy Optimization" (arXiv 2509.02333). This loss does not include the
    paper's advantages, which are smoothed over training steps, or its sum over responses.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        eps_low: of the lower bound.
        eps_high: of the upper bound.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, clip_low and clip_high (tokens clipped).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    low, high = dcpo_bounds(old_logp, eps_low=eps_low, eps_high=eps_high)
    log_rho, nonfinite = log_ratio(logp, old_logp, mask)
    ratio = log_rho.exp()
    gain = torch.where(mask, advantages, 0.0).detach()
    counts = mask & ~nonfinite
    held_low = counts & (gain < 0) & (ratio < low)
    held_high = counts & (gain > 0) & (ratio > high)
    bounded = torch.where(held_high, high, torch.where(held_low, low, ratio))
    metrics = {
        **ratio_metrics(log_rho, mask, nonfinite),
        "clip_low": held_low.sum(),
        "clip_high": held_high.sum(),
    }
    return TokenLoss(torch.where(mask, -gain * bounded, 0.0), metrics)
