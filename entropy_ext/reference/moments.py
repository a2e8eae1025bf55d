"""Moments of log-probabilities and advantages, and the covariance of a token, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["CovarianceMoments", "clipped_tokens", "covariance", "masked", "valid_tokens"]


class CovarianceMoments:
    """Count, means, variances and covariance of logp and advantages over the valid tokens."""

    def __init__(self) -> None:
        # count, Σ logp, Σ A, Σ logp², Σ A², Σ logp·A
        self.sums = torch.zeros(6, dtype=torch.float64)

    def update(self, logp: Tensor, advantages: Tensor, mask: Tensor | None) -> None:
        valid = valid_tokens(mask, logp)
        x, a = masked(logp, valid), masked(advantages, valid)
        parts = [valid.double(), x, a, x * x, a * a, x * a]
        self.sums = self.sums.to(logp.device) + torch.stack([part.sum() for part in parts])

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        dist.all_reduce(self.sums, group=group)

    @property
    def count(self) -> Tensor:
        return self.sums[0]

    @property
    def mean_logp(self) -> Tensor:
        return self.sums[1] / self.count

    @property
    def mean_advantages(self) -> Tensor:
        return self.sums[2] / self.count

    @property
    def var_logp(self) -> Tensor:
        return self.sums[3] / self.count - self.mean_logp.square()

    @property
    def var_advantages(self) -> Tensor:
        return self.sums[4] / self.count - self.mean_advantages.square()

    @property
    def covariance(self) -> Tensor:
        return self.sums[5] / self.count - self.mean_logp * self.mean_advantages


def covariance(
    logp: Tensor, advantages: Tensor, mask: Tensor | None, *, moments: Any = None
) -> Tensor:
    """(logp − mean logp)(A − mean A), 0 off the mask."""
    if moments is None:
        moments = CovarianceMoments()
        moments.update(logp, advantages, mask)
    valid = valid_tokens(mask, logp)
    x = masked(logp, valid) - moments.mean_logp
    a = masked(advantages, valid) - moments.mean_advantages
    return torch.where(valid, x * a, 0.0).to(logp.dtype)


def clipped_tokens(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """Where the PPO clip is active: −A·clip(ρ, 1 − low, 1 + high) > −A·ρ."""
    valid = valid_tokens(mask, logp)
    ratio = (masked(logp, valid) - masked(old_logp, valid)).clamp(-20.0, 20.0).exp()
    a = masked(advantages, valid)
    return valid & (-a * ratio.clamp(1.0 - clip_low, 1.0 + clip_high) > -a * ratio)


def valid_tokens(mask: Tensor | None, like: Tensor) -> Tensor:
    """The mask, or all tokens if there is none."""
    return torch.ones(like.shape, dtype=torch.bool, device=like.device) if mask is None else mask


def masked(values: Tensor, valid: Tensor) -> Tensor:
    """float64, detached, 0 where not valid."""
    return torch.where(valid, values.detach().double(), 0.0)
