"""Behaviour-constrained policy gradient with softened penalties on correct steps."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.losses.token_loss import TokenLoss, check_loss_inputs, log_ratio

__all__ = ["bcpg_nsa"]


def bcpg_nsa(
    logp: Tensor,
    ref_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    softened: Tensor,
    *,
    beta: float = 0.5,
    tau: float = 1e-3,
) -> TokenLoss:
    """Policy gradient on stored responses, with a penalty on leaving the policy that wrote them.

    With dᵢ = Σₜ (logpᵢₜ − ref_logpᵢₜ) over the whole response of l tokens:
    Lᵢₜ = −wᵢₜ·Aᵢₜ·logpᵢₜ + (τ/2)·dᵢ²/lᵢ,   w = β where `softened`, 1 elsewhere.

    There is no ratio and no clip. Summed over the response, the second term is (τ/2)·d²; its
    gradient with respect to every logp is τ·d. Gradient flows to logp in both terms; it is 0 where
    logp or ref_logp is not finite, and does not flow through d where a token's difference exceeds
    20 nats.

    "Unearthing Gems from Stones: Policy Optimization with Negative Sample Augmentation for LLM
    Reasoning" (arXiv 2505.14403, eq. 3 to 7), averaged there as seq-mean-token-mean.

    Args:
        logp: [B, T] floating, nats.
        ref_logp: [B, T], nats, of the policy that wrote the responses.
        advantages: [B, T].
        mask: [B, T] bool; whole responses.
        softened: [B, T] bool, tokens of correct steps in wrong responses.
        beta: β in [−1, 1]: 1 is plain BCPG, 0 ignores those tokens, below 0 reinforces them.
        tau: τ ≥ 0.

    Returns:
        TokenLoss; metrics tokens, softened (tokens), behaviour (Σ d² over responses, nats²) and
        nonfinite_logp (tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, ref_logp, advantages, mask)
    check_tensor("softened", softened, shape=logp.shape, dtype=torch.bool)
    check_bound("beta", beta, at_least=-1, at_most=1)
    check_bound("tau", tau, at_least=0)
    softened = mask & softened
    difference, nonfinite = log_ratio(logp, ref_logp, mask)
    gain = torch.where(mask, advantages, 0.0).detach()
    gain = torch.where(softened, beta * gain, gain)
    likelihood = torch.where(mask & ~nonfinite, logp, 0.0)
    squared = difference.sum(-1, keepdim=True).square()
    share = squared / mask.sum(-1, keepdim=True).clamp(min=1)
    loss = torch.where(mask, tau / 2 * share - gain * likelihood, 0.0)
    metrics = {
        "tokens": mask.sum(),
        "softened": softened.sum(),
        "behaviour": squared.detach().sum(),
        "nonfinite_logp": nonfinite.sum(),
    }
    return TokenLoss(loss, metrics)
