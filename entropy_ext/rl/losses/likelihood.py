"""Likelihood of the policy's own right answers."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_tensor
from entropy_ext.rl.losses.token_loss import TokenLoss

__all__ = ["positive_nll"]


def positive_nll(logp: Tensor, positive: Tensor, mask: Tensor) -> TokenLoss:
    """Negative log-likelihood of the tokens of right responses.

    L = −logp on response tokens of positive responses, 0 elsewhere.

    Gradient flows to logp where it is finite. There is no ratio and no clip.

    VAPO (arXiv 2504.05118), "positive example LM loss"; there it is averaged over the positive
    tokens alone.

    Args:
        logp: [B, T] floating, nats.
        positive: [B] bool, the right responses.
        mask: [B, T] bool.

    Returns:
        TokenLoss; metrics positive_tokens and nll (the sum, nats).

    Raises:
        ValueError, TypeError: a wrong shape or dtype.
    """
    check_tensor("logp", logp, ndim=2, floating=True)
    check_tensor("mask", mask, shape=logp.shape, dtype=torch.bool)
    check_tensor("positive", positive, shape=logp.shape[:1], dtype=torch.bool)
    chosen = mask & positive.unsqueeze(-1)
    loss = torch.where(chosen & torch.isfinite(logp.detach()), -logp, 0.0)
    return TokenLoss(loss, {"positive_tokens": chosen.sum(), "nll": loss.detach().sum()})
