"""Log-likelihood losses without a ratio in the gradient: REINFORCE and DRO."""

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

__all__ = ["dro", "reinforce"]


def reinforce(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
    """Log-likelihood weighted by the advantage.

    L = −A·logp

    Gradient flows to logp: −A; 0 where logp or old_logp is not finite. There is no correction for
    old data; old_logp is used only for the metrics.

    R. Williams, "Simple statistical gradient-following algorithms" (1992); GPG (arXiv 2504.02546)
    has this loss.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp.

    Raises:
        ValueError, TypeError: a wrong shape or dtype.
    """
    return dro(logp, old_logp, advantages, mask, beta=0.0)


def dro(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, *, beta: float = 0.1
) -> TokenLoss:
    """Log-likelihood weighted by the advantage, with a penalty on the squared log-ratio.

    With ln ρ = logp − old_logp:  L = −(A·logp − (β/2)·ln²ρ).

    Gradient flows to logp: −A + β·ln ρ, so that a token settles at ln ρ = A/β; 0 where logp or
    old_logp is not finite, and the second part is 0 where the log-ratio is clamped.

    Direct reward optimisation, as in verl's policy loss "dro". The value of β could not be
    verified: 0.1 is the default of one port, 1 that of another.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        beta: β ≥ 0.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_bound("beta", beta, at_least=0)
    log_rho, nonfinite = log_ratio(logp, old_logp, mask)
    gain = torch.where(mask, advantages, 0.0).detach()
    loss = torch.where(mask & ~nonfinite, -gain * logp + beta / 2 * log_rho.square(), 0.0)
    return TokenLoss(loss, ratio_metrics(log_rho, mask, nonfinite))
