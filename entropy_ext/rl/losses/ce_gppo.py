"""CE-GPPO: clipped tokens keep a bounded gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses.ppo import held_by_clip
from entropy_ext.rl.losses.token_loss import (
    TokenLoss,
    check_loss_inputs,
    log_ratio,
    ratio_metrics,
)

__all__ = ["ce_gppo"]


def ce_gppo(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    beta_low: float = 0.75,
    beta_high: float = 1.0,
) -> TokenLoss:
    """The clipped loss, but clipped tokens keep a gradient of the size of the bound.

    With ρ = exp(logp − old_logp):

    - A < 0 and ρ < 1 − clip_low:   L = −beta_low·(1 − clip_low)·A·ρ/sg(ρ)
    - A > 0 and ρ > 1 + clip_high:  L = −beta_high·(1 + clip_high)·A·ρ/sg(ρ)
    - elsewhere:                    L = −A·ρ

    Negative tokens that have become rare keep being pushed down, which lowers entropy; positive
    ones that have risen keep rising, which raises entropy if they are rare. The two betas balance
    these effects. With both 0 the gradient is that of `ppo_clip`; with both 1 this is GPPO (arXiv
    2508.07629).

    Gradient flows to logp; 0 where the log-ratio is clamped and where logp or old_logp is not
    finite.

    "CE-GPPO" (arXiv 2509.20712). beta_low is 0.75 for 7B models and 0.5 for 1.5B models; the
    default of the released function is 0.25.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        clip_low: the ratio may fall to 1 − clip_low at full gradient.
        clip_high: the ratio may rise to 1 + clip_high at full gradient.
        beta_low: ≥ 0, factor on the gradient below the lower bound.
        beta_high: ≥ 0, factor on the gradient above the upper bound.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, clip_low and clip_high (tokens beyond).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_bound("clip_low", clip_low, at_least=0, at_most=1)
    check_bound("clip_high", clip_high, at_least=0)
    check_bound("beta_low", beta_low, at_least=0)
    check_bound("beta_high", beta_high, at_least=0)
    log_rho, nonfinite = log_ratio(logp, old_logp, mask)
    ratio = log_rho.exp()
    gain = torch.where(mask, advantages, 0.0).detach()
    beyond_low, beyond_high = held_by_clip(ratio, gain, clip_low=clip_low, clip_high=clip_high)
    # Its value is 1 and its gradient is that of ln ρ.
    unit = (log_rho - log_rho.detach()).exp()
    weight = torch.where(beyond_low, beta_low * (1 - clip_low) * unit, ratio)
    weight = torch.where(beyond_high, beta_high * (1 + clip_high) * unit, weight)
    metrics = {
        **ratio_metrics(log_rho, mask, nonfinite),
        "clip_low": beyond_low.sum(),
        "clip_high": beyond_high.sum(),
    }
    return TokenLoss(torch.where(mask, -gain * weight, 0.0), metrics)
