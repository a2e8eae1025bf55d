"""The result type of every token loss, and the ratio and checks that they share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_tensor

__all__ = ["TokenLoss", "check_loss_inputs", "log_ratio", "ratio_metrics"]


class TokenLoss(NamedTuple):
    """A loss per token, and metrics."""

    loss: Tensor
    """[B, T], 0 off the mask"""
    metrics: dict[str, Tensor]
    """name → 0-d tensor without gradient, a sum over unmasked tokens"""


def log_ratio(
    logp: Tensor, old_logp: Tensor, mask: Tensor, *, max_log_ratio: float = 20.0
) -> tuple[Tensor, Tensor]:
    """ln π/π_old for each token, bounded so that it can be exponentiated.

    clamp(logp − old_logp, ±max_log_ratio), and 0 where either is not finite or mask is False.

    Gradient flows to logp where the value is neither clamped nor replaced.

    Args:
        logp: [B, T], nats.
        old_logp: [B, T], nats.
        mask: [B, T] bool.
        max_log_ratio: bound on the absolute value, nats.

    Returns:
        The log-ratio [B, T], and [B, T] bool: True on unmasked tokens with a non-finite logp.
    """
    old_logp = old_logp.detach()
    finite = torch.isfinite(logp.detach()) & torch.isfinite(old_logp)
    difference = torch.where(mask & finite, logp - old_logp, 0.0)
    return difference.clamp(-max_log_ratio, max_log_ratio), mask & ~finite


def check_loss_inputs(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor) -> None:
    """Raise unless all four are [B, T], the mask bool and the others floating."""
    check_tensor("logp", logp, ndim=2, floating=True)
    check_tensor("old_logp", old_logp, shape=logp.shape, floating=True)
    check_tensor("advantages", advantages, shape=logp.shape, floating=True)
    check_tensor("mask", mask, shape=logp.shape, dtype=torch.bool)


def ratio_metrics(log_rho: Tensor, mask: Tensor, nonfinite: Tensor) -> dict[str, Tensor]:
    """The metrics of every loss: tokens, kl_old (Σ ρ − 1 − ln ρ, nats) and nonfinite_logp (tokens).

    Args:
        log_rho: [B, T], the log-ratio; 0 off the mask.
        mask: [B, T] bool.
        nonfinite: [B, T] bool, as `log_ratio` returned it.
    """
    fixed = log_rho.detach()
    return {
        "tokens": mask.sum(),
        "kl_old": (fixed.expm1() - fixed).sum(),
        "nonfinite_logp": nonfinite.sum(),
    }
