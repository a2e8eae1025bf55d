"""EntroPIC's second term: a pull on confident tokens, whose strength is set by a controller."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.losses.token_loss import check_loss_inputs, log_ratio

__all__ = ["confidence_pull"]


def confidence_pull(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Raises the probability of every unmasked token in proportion to |A|, whatever the sign of A.

    With ρ = exp(logp − old_logp): L = −ρ·|A|.

    Added α times to the policy loss −ρ·A, it weights positive tokens by 1 + α and negative ones by
    1 − α. On tokens with high probability, α > 0 lowers entropy and α < 0 raises it.

    Gradient flows to logp: −ρ·|A|, also where the policy loss is clipped; 0 where the log-ratio
    is clamped and where logp or old_logp is not finite.

    "EntroPIC" (arXiv 2511.15248).

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool, the tokens of high probability.

    Returns:
        [B, T], 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape or dtype.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    log_rho, _ = log_ratio(logp, old_logp, mask)
    return torch.where(mask, -advantages.abs().detach() * log_rho.exp(), 0.0)
