"""SENT's token loss: stays near the old policy where entropy is low and covariance extreme."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.losses.token_loss import (
    TokenLoss,
    check_loss_inputs,
    log_ratio,
    ratio_metrics,
)
from entropy_ext.rl.statistics import token_covariance, token_ids
from entropy_ext.token_selection import kl_cov

__all__ = ["sent", "sent_penalty"]


def sent(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    penalty: Tensor,
    coef: float = 0.1,
) -> TokenLoss:
    """Unclipped policy gradient, with a penalty |ln ρ| on chosen tokens.

    With ρ = exp(logp − old_logp):  L = −A·ρ + coef·penalty·|ln ρ|.

    Gradient flows to logp: −A·ρ + coef·penalty·sign(ln ρ). The sign is 0 at ρ = 1, so exactly on
    policy this is plain policy gradient. The gradient is 0 where the log-ratio is clamped and where
    logp or old_logp is not finite.

    "Efficient RL with Semantic and Token Entropy for LLM Reasoning" (arXiv 2512.04359).

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats.
        advantages: [B, T].
        mask: [B, T] bool.
        penalty: [B, T], as `sent_penalty` gives it.
        coef: ≥ 0. The released configuration has 0.1; the default in its code is 1.

    Returns:
        TokenLoss; metrics tokens, kl_old, nonfinite_logp, penalised (tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_tensor("penalty", penalty, shape=logp.shape, floating=True)
    check_bound("coef", coef, at_least=0)
    log_rho, nonfinite = log_ratio(logp, old_logp, mask)
    factor = torch.where(mask, penalty, 0.0).detach()
    gain = torch.where(mask, advantages, 0.0).detach()
    loss = -gain * log_rho.exp() + coef * factor * log_rho.abs()
    metrics = {**ratio_metrics(log_rho, mask, nonfinite), "penalised": (factor > 0).sum()}
    return TokenLoss(torch.where(mask, loss, 0.0), metrics)


@torch.no_grad()
def sent_penalty(
    logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    low_fraction: float = 0.8,
    cov_fraction: float = 2e-4,
    top: float = 2.0,
    bottom: float = 0.5,
    rest: float = 0.0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Which tokens are penalised, and how strongly.

    The low tokens are the max(⌊low_fraction·N⌋, 1) with the lowest entropy; let n be their number.
    Their cov is (logp − mean)(A − mean), with means over the low tokens. The max(⌊cov_fraction·n⌋,
    1) of them with the greatest cov get `top`, the same number with the smallest cov get `bottom`
    (which wins if a token is in both), and the others get `rest`.

    No gradient. "Efficient RL with Semantic and Token Entropy for LLM Reasoning"
    (arXiv 2512.04359). rest = 0 is the released code; the paper penalises all low tokens (rest >
    0). The released code indexes with a 0/1 integer mask and so reads the wrong entries; here the
    intended ones are used.

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        entropy: [B, T], nats, of the same policy.
        advantages: [B, T].
        mask: [B, T] bool; tokens with a non-finite logp or entropy are skipped.
        low_fraction: in [0, 1].
        cov_fraction: in [0, 1].
        top: ≥ 0.
        bottom: ≥ 0.
        rest: ≥ 0.
        group: ranks that hold the other tokens of the mini-batch.

    Returns:
        [B, T] of logp's dtype, 0 on all other tokens.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, entropy, advantages, mask)
    for name, value in (("top", top), ("bottom", bottom), ("rest", rest)):
        check_bound(name, value, at_least=0)
    known = mask & torch.isfinite(logp) & torch.isfinite(entropy)
    ids = token_ids(mask, group=group)
    # kl_cov selects the greatest of any score, rounding down to at least one; with −entropy, the
    # lowest entropies.
    low = kl_cov(-entropy, known, fraction=low_fraction, token_ids=ids, group=group)
    cov = token_covariance(logp, advantages, low, group=group)
    highest = kl_cov(cov, low, fraction=cov_fraction, token_ids=ids, group=group)
    lowest = kl_cov(-cov, low, fraction=cov_fraction, token_ids=ids, group=group)
    factor = rest * low.to(logp.dtype)
    return torch.where(lowest, bottom, torch.where(highest, top, factor))
