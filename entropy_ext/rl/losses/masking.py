"""Leaves out sequences from which the policy has moved too far."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses.token_loss import check_loss_inputs, log_ratio

__all__ = ["off_policy_sequence_mask"]


@torch.no_grad()
def off_policy_sequence_mask(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    threshold: float,
) -> Tensor:
    """Leaves out tokens with negative advantage in sequences that are far off policy.

    Mᵢₜ = 0 where Aᵢₜ < 0 and (1/lᵢ)·Σₜ (old_logp − logp) > threshold, else 1.

    No gradient. It multiplies the policy loss only, not a KL penalty or the divisors (ms-swift
    removes the sequences from both). No sequence may be split. An empty sequence has distance 0; a
    token whose logp or old_logp is not finite adds 0 to the distance.

    "DeepSeek-V3.2" (arXiv 2512.02556), as in TRL and slime.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats; with the sampler's own, its mismatch counts too.
        advantages: [B, T].
        mask: [B, T] bool.
        threshold: δ ≥ 0, nats per token. The report gives no value; TRL suggests 0.5, slime's
            default is 1e-4.

    Returns:
        [B, T] bool, True where the loss counts; False off the mask.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_bound("threshold", threshold, at_least=0)
    log_rho, _ = log_ratio(logp, old_logp, mask)
    distance = -log_rho.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return mask & ~((advantages < 0) & (distance > threshold))
