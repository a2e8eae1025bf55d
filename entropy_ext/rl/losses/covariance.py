"""Losses that treat tokens with a high covariance of log-probability and advantage specially."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_choice, check_tensor
from entropy_ext.rl.losses.ppo import ppo_clip
from entropy_ext.rl.losses.token_loss import TokenLoss, check_loss_inputs, log_ratio, ratio_metrics

__all__ = ["CovPenalty", "clip_cov", "kl_cov"]

CovPenalty = Literal["abs", "k2", "k3"]


def clip_cov(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    selected: Tensor,
    *,
    clip_low: float = 1.0,
    clip_high: float = 1.0,
) -> TokenLoss:
    """Clipped policy-gradient loss without the selected tokens.

    L = 0 where `selected`, max(−A·ρ, −A·clip(ρ, 1 − clip_low, 1 + clip_high)) elsewhere. Selected
    tokens still count in a mean over tokens.

    Gradient flows to logp as in `ppo_clip`; none from selected tokens.

    "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models"
    (arXiv 2505.22617, eq. 12). The released code does not bound the log-ratio; here ±20 nats.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        selected: [B, T] bool, from `entropy_ext.clip_cov`.
        clip_low: the ratio may fall to 1 − clip_low; the released recipe's 1 leaves it free.
        clip_high: the ratio may rise to 1 + clip_high.

    Returns:
        TokenLoss; metrics of `ppo_clip` and cov_clipped (tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    loss, metrics = ppo_clip(
        logp, old_logp, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    check_tensor("selected", selected, shape=logp.shape, dtype=torch.bool)
    chosen = (mask & selected).sum()
    return TokenLoss(torch.where(selected, 0.0, loss), {**metrics, "cov_clipped": chosen})


def kl_cov(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    selected: Tensor,
    *,
    coef: float = 1.0,
    penalty: CovPenalty = "abs",
) -> TokenLoss:
    """Policy-gradient loss with a penalty that keeps the selected tokens near the sampling policy.

    With d = logp − old_logp:  L = −A·eᵈ + coef·D(d) where `selected`, −A·eᵈ elsewhere, and D

    - abs: |d|            the released code; gradient ±1, and 0 at d = 0
    - k2:  d²/2
    - k3:  eᵈ − 1 − d     whose mean over samples of π_old is KL(π_old ‖ π)

    Nothing is clipped. In the first step on a rollout, d = 0 and D has no gradient: the penalty
    acts only from the second mini-batch on.

    Gradient flows to logp; 0 where |d| exceeds 20 nats and where logp or old_logp is not finite
    (d counts as 0 there).

    "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models"
    (arXiv 2505.22617, eq. 14), whose divergence is KL(π_old ‖ π).

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats, of the policy that sampled.
        advantages: [B, T].
        mask: [B, T] bool.
        selected: [B, T] bool, from `entropy_ext.kl_cov`.
        coef: weight of the penalty, ≥ 0; 1 in the paper, 0.1 verl's default.
        penalty: one of the three above.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, cov_held (tokens) and cov_penalty (Σ D,
        nats).

    Raises:
        ValueError, TypeError: a wrong shape, dtype, bound or option.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_tensor("selected", selected, shape=logp.shape, dtype=torch.bool)
    check_bound("coef", coef, at_least=0)
    check_choice("penalty", penalty, get_args(CovPenalty))
    log_rho, nonfinite = log_ratio(logp, old_logp, mask)
    gain = torch.where(mask, advantages, 0.0).detach()
    held = torch.where(selected, log_rho, 0.0)
    if penalty == "abs":
        distance = held.abs()
    elif penalty == "k2":
        distance = held.square() / 2
    else:
        distance = held.expm1() - held
    metrics = {
        **ratio_metrics(log_rho, mask, nonfinite),
        "cov_held": (mask & selected).sum(),
        "cov_penalty": distance.detach().sum(),
    }
    return TokenLoss(coef * distance - gain * log_rho.exp(), metrics)
