"""Estimators of the divergence from a reference policy, as a loss per token."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_choice, check_tensor
from entropy_ext.rl.losses.token_loss import TokenLoss, log_ratio

__all__ = ["KLEstimator", "kl_penalty"]

KLEstimator = Literal["k1", "k2", "k3", "unbiased"]


def kl_penalty(
    logp: Tensor,
    ref_logp: Tensor,
    mask: Tensor,
    *,
    estimator: KLEstimator = "k3",
    old_logp: Tensor | None = None,
    max_value: float | None = None,
    max_log_ratio: float = 20.0,
) -> TokenLoss:
    """Estimate of KL(π ‖ π_ref) from the sampled token.

    With d = logp − ref_logp and ρ = exp(logp − old_logp):

    - k1:       d                       gradient ∇logp, whose mean is 0: no penalty as a loss
    - k2:       d²/2                    gradient d·∇logp, that of the divergence when on policy
    - k3:       e⁻ᵈ − 1 + d             gradient (1 − e⁻ᵈ)∇logp: at most 1, unbounded below
    - unbiased: ρ·(e⁻ᵈ − 1 + d)         gradient ρ·d·∇logp, that of the divergence also off policy

    Gradient flows to logp, also through ρ; it is 0 where a bound is active and where a
    log-probability is not finite (d and ln ρ count as 0 there).

    k1 to k3: J. Schulman, "Approximating KL Divergence" (2020). unbiased: "DeepSeek-V3.2"
    (arXiv 2512.02556), as in TRL's use_bias_correction_kl.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        ref_logp: [B, T], nats, of the reference.
        mask: [B, T] bool.
        estimator: one of the four above.
        old_logp: [B, T], nats, of the policy that sampled; required for "unbiased", else None.
        max_value: bound on the absolute value of the estimate, nats, or None. verl bounds k3 by 10;
            a bound removes the gradient where the divergence is largest.
        max_log_ratio: bound on |d| and |ln ρ| before they are exponentiated, nats.

    Returns:
        TokenLoss; metrics kl_ref (the sum of the estimates, nats) and nonfinite_ref (tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype, bound or option.
    """
    check_tensor("logp", logp, ndim=2, floating=True)
    check_tensor("ref_logp", ref_logp, shape=logp.shape, floating=True)
    check_tensor("mask", mask, shape=logp.shape, dtype=torch.bool)
    check_choice("estimator", estimator, get_args(KLEstimator))
    check_bound("max_log_ratio", max_log_ratio, above=0)
    if max_value is not None:
        check_bound("max_value", max_value, above=0)
    if (old_logp is not None) != (estimator == "unbiased"):
        raise ValueError('old_logp: expected one with estimator "unbiased" and none with others')

    difference, nonfinite = log_ratio(logp, ref_logp, mask, max_log_ratio=max_log_ratio)
    if estimator == "k1":
        kl = difference
    elif estimator == "k2":
        kl = difference.square() / 2
    else:
        kl = (-difference).expm1() + difference
    if old_logp is not None:
        check_tensor("old_logp", old_logp, shape=logp.shape, floating=True)
        kl = kl * log_ratio(logp, old_logp, mask, max_log_ratio=max_log_ratio)[0].exp()
    if max_value is not None:
        kl = kl.clamp(-max_value, max_value)
    return TokenLoss(kl, {"kl_ref": kl.detach().sum(), "nonfinite_ref": nonfinite.sum()})
