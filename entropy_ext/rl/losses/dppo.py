"""DPPO: tokens are left out by how far the policy has moved instead of by its ratio."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.losses.token_loss import (
    TokenLoss,
    check_loss_inputs,
    log_ratio,
    ratio_metrics,
)

__all__ = ["Divergence", "dppo"]

Divergence = Literal["tv", "kl"]

_THRESHOLD = {"tv": 0.15, "kl": 0.05}


def dppo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    divergence: Divergence = "tv",
    threshold: float | None = None,
    max_weight: float = 20.0,
) -> TokenLoss:
    """Log-likelihood weighted by advantage and ratio, without tokens that have moved too far.

    With p = exp(logp), q = exp(old_logp), ρ = p/q:  L = −M·sg(min(ρ, max_weight))·A·logp, where
    M = 0 if p has moved in the direction of A (up for A > 0, down for A ≤ 0) beyond the threshold:

    - tv: |p − q|
    - kl: q ln(q/p) + (1 − q) ln((1 − q)/(1 − p)), the divergence of "this token or any other"

    A rare token may thus multiply its probability, where a clip of the ratio would stop it, while a
    common token may not shift a mass that its ratio, near 1, would hide.

    Gradient flows to logp: −M·A·min(ρ, max_weight); 0 where logp or old_logp is not finite.

    DPPO (arXiv 2602.04879), the binary forms, as in verl and sail-sg/Stable-RL.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        divergence: "tv" or "kl".
        threshold: ≥ 0; None takes 0.15 for tv, 0.05 nats for kl.
        max_weight: cap on the ratio, > 0.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, clip_low and clip_high (tokens left out,
        with falling and with rising probability), capped (tokens at the cap).

    Raises:
        ValueError, TypeError: a wrong shape, dtype, bound or option.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_choice("divergence", divergence, get_args(Divergence))
    threshold = _THRESHOLD[divergence] if threshold is None else threshold
    check_bound("threshold", threshold, at_least=0)
    check_bound("max_weight", max_weight, above=0)
    log_rho, nonfinite = log_ratio(logp.detach(), old_logp, mask)
    known = mask & ~nonfinite
    p = torch.where(known, logp.detach(), 0.0).exp()
    q = torch.where(known, old_logp.detach(), 0.0).exp()
    if divergence == "tv":
        moved = (p - q).abs()
    else:
        # 1e-8 as in verl, so that no logarithm is of 0 where a probability rounds to 1.
        rest = ((1 - q + 1e-8) / (1 - p + 1e-8)).log()
        moved = -q * log_rho + (1 - q) * rest
    gain = torch.where(mask, advantages, 0.0).detach()
    far = known & (moved > threshold)
    left_high = far & (gain > 0) & (p > q)
    left_low = far & (gain <= 0) & (p < q)
    ratio = log_rho.exp()
    counted = known & ~left_high & ~left_low
    loss = torch.where(counted, -gain * ratio.clamp(max=max_weight) * logp, 0.0)
    metrics = {
        **ratio_metrics(log_rho, mask, nonfinite),
        "clip_low": left_low.sum(),
        "clip_high": left_high.sum(),
        "capped": (mask & (ratio > max_weight)).sum(),
    }
    return TokenLoss(loss, metrics)
