"""Moments of log-probabilities and advantages, and each token's covariance."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext import ops_selection
from entropy_ext.inputs_selection import check_stored, check_tensors
from entropy_ext.native_selection import MOMENT_SUMS

__all__ = ["CovarianceMoments", "covariance", "sums_of"]


# The positions of the pairs of sums in MomentSums of csrc/token_selection.h.
_LOGP, _ADVANTAGES, _LOGP_SQUARE, _ADVANTAGES_SQUARE, _PRODUCT = 2, 4, 6, 8, 10


class CovarianceMoments:
    """Count, means, variances and covariance of logp and advantages over valid tokens.

    update() adds a micro-batch, all_reduce() adds the other ranks. Sums are kept as pairs of
    float64, so that for float32 numbers the result does not depend on their order or split. No
    gradient flows.

    The properties are 0-d float64 tensors on the device of the tokens (on the CPU before the first
    update); they are NaN while count is 0.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def update(self, logp: Tensor, advantages: Tensor, mask: Tensor | None) -> None:
        """Add the valid tokens of a micro-batch.

        Args:
            logp: [...] float32 or float64, nats.
            advantages: [...], dtype of logp.
            mask: [...] bool, or None: all tokens are valid.

        Raises:
            TypeError, ValueError: an argument of the wrong dtype, shape or device; on the CPU also
                a valid token whose logp or advantage is not finite (on CUDA it is left out).
        """
        check_tensors({"logp": logp, "advantages": advantages}, mask=mask)
        part = ops_selection.token_moments(logp.detach(), advantages.detach(), mask)
        self._sums = part if self._sums is None else _merged([self._sums, part])

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Add the tokens of all ranks, in rank order, so that all ranks have the same bits.

        A rank without tokens must take part too; on CUDA, call update() with empty tensors there
        first, so that its sums are on its device.

        Args:
            group: process group, None: the default one.

        Raises:
            ValueError: fake tensors, which have no values to exchange.
        """
        check_stored({"logp": self.sums})
        parts = [torch.empty_like(self.sums) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, self.sums, group=group)
        self._sums = _merged(parts)

    @property
    def sums(self) -> Tensor:
        """The state, float64 [12]: MomentSums of csrc/token_selection.h."""
        if self._sums is None:
            return torch.zeros(MOMENT_SUMS, dtype=torch.float64, device="cpu")
        return self._sums

    @property
    def count(self) -> Tensor:
        """Number of valid tokens with finite logp and advantage."""
        return self.sums[0]

    @property
    def skipped(self) -> Tensor:
        """Number of valid tokens whose logp or advantage was not finite (0 on the CPU)."""
        return self.sums[1]

    @property
    def mean_logp(self) -> Tensor:
        """Nats."""
        return self._mean(_LOGP)

    @property
    def mean_advantages(self) -> Tensor:
        return self._mean(_ADVANTAGES)

    @property
    def var_logp(self) -> Tensor:
        """Nats², divided by count."""
        return self._central(_LOGP_SQUARE, _LOGP, _LOGP)

    @property
    def var_advantages(self) -> Tensor:
        """Divided by count."""
        return self._central(_ADVANTAGES_SQUARE, _ADVANTAGES, _ADVANTAGES)

    @property
    def covariance(self) -> Tensor:
        """Nats, divided by count: the mean of covariance() over the valid tokens."""
        return self._central(_PRODUCT, _LOGP, _ADVANTAGES)

    def _pair(self, at: int) -> tuple[Tensor, Tensor]:
        """A rounded sum and its rounding error, independent of how it was accumulated."""
        high, low = self.sums[at : at + 2].unbind()
        total = high + low
        return total, low - (total - high)

    def _mean(self, at: int) -> Tensor:
        return self._pair(at)[0] / self.count

    def _central(self, product: int, first: int, second: int) -> Tensor:
        """(n·Σxy − Σx·Σy)/n²; the difference is exact where it cancels."""
        n = self.count
        xy, x, y = self._pair(product), self._pair(first), self._pair(second)
        high, low = _exact_product(n, xy[0])
        other_high, other_low = _exact_product(x[0], y[0])
        low = low + n * xy[1] - (other_low + x[0] * y[1] + x[1] * y[0])
        return ((high - other_high) + low) / (n * n)


def sums_of(moments: CovarianceMoments | None) -> Tensor | None:
    """The state of the given moments; raise TypeError for anything else."""
    if moments is None:
        return None
    if not isinstance(moments, CovarianceMoments):
        raise TypeError(f"moments: expected CovarianceMoments, got {type(moments).__name__}")
    return moments.sums


def _merged(parts: list[Tensor]) -> Tensor:
    sums: Tensor = ops_selection.merge_moments(torch.stack(parts))
    return sums


def _exact_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a·b rounded, and the rounding error (Dekker's product, with halves of 26 bits)."""
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    product = a * b
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    scaled = x * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - x)
    return high, x - high


def covariance(
    logp: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    *,
    moments: CovarianceMoments | None = None,
) -> Tensor:
    """Each token's contribution to the covariance of log-probability and advantage.

    covᵢ = (logpᵢ − mean logp)·(Aᵢ − mean A), with means over the valid tokens.

    No gradient flows. "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
    Models" (arXiv 2505.22617, eq. 10). The authors' code takes the means over a micro-batch; pass
    `moments` to use those of a whole optimizer step.

    Args:
        logp: [...] float32 or float64, nats, of the policy being trained.
        advantages: [...], dtype of logp.
        mask: [...] bool, or None: all tokens are valid.
        moments: CovarianceMoments from which the means are taken; None: the means of these tokens.

    Returns:
        [...] in nats, dtype of logp; 0 off the mask.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape or device; on the CPU also a
            valid token whose logp or advantage is not finite. On CUDA the covariance of such a
            token is NaN, the means leave it out, and no selector chooses it.
    """
    check_tensors({"logp": logp, "advantages": advantages}, mask=mask)
    cov: Tensor = ops_selection.covariance(
        logp.detach(), advantages.detach(), mask, sums_of(moments)
    )
    return cov
