"""Moments of log-probabilities and advantages, and each token's covariance."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from entropy_ext.token_selection.checks import check_tokens

__all__ = ["CovarianceMoments", "covariance"]


class CovarianceMoments:
    """Count, means, variances and covariance of logp and advantages over valid tokens.

    Accumulated over micro-batches by update(), over ranks by all_reduce(); what comes of it is the
    same whatever the split: the sums are kept as pairs of float64. Detached: no gradient flows.

    The properties are 0-d float64 tensors on the device of the tokens, NaN while count is 0.
    """

    def __init__(self) -> None:
        from entropy_ext import reference

        self._sums = reference.CovarianceMoments()

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
        check_tokens({"logp": logp, "advantages": advantages}, mask=mask)
        self._sums.update(logp, advantages, mask)

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Add up the tokens of all ranks, in rank order: the same bits on every rank.

        Args:
            group: process group, None: the default one.
        """
        self._sums.all_reduce(group)

    @property
    def sums(self) -> Tensor:
        """The state: float64 sums."""
        return self._sums.sums

    @property
    def count(self) -> Tensor:
        """Valid tokens."""
        return self._sums.count

    @property
    def mean_logp(self) -> Tensor:
        """Nats."""
        return self._sums.mean_logp

    @property
    def mean_advantages(self) -> Tensor:
        return self._sums.mean_advantages

    @property
    def var_logp(self) -> Tensor:
        """Nats², divided by count."""
        return self._sums.var_logp

    @property
    def var_advantages(self) -> Tensor:
        """Divided by count."""
        return self._sums.var_advantages

    @property
    def covariance(self) -> Tensor:
        """Nats, divided by count: the mean of covariance() over the valid tokens."""
        return self._sums.covariance


def covariance(
    logp: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    *,
    moments: CovarianceMoments | None = None,
) -> Tensor:
    """What each token adds to the covariance of log-probability and advantage.

    covᵢ = (logpᵢ − mean logp)·(Aᵢ − mean A), means over the valid tokens.

    No gradient flows. "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
    Models" (arXiv 2505.22617, eq. 10). The paper's code takes the means over a micro-batch; give
    `moments` for those of an optimizer step.

    Args:
        logp: [...] float32 or float64, nats, of the policy being trained.
        advantages: [...], dtype of logp.
        mask: [...] bool, or None: all tokens are valid.
        moments: CovarianceMoments to take the means from; None: of these tokens.

    Returns:
        [...] in nats, dtype of logp; 0 off the mask.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape or device; on the CPU also a
            valid token whose logp or advantage is not finite. On CUDA the covariance of such a
            token is NaN, the means do without it, and no selector chooses it.
    """
    check_tokens({"logp": logp, "advantages": advantages}, mask=mask)
    from entropy_ext import reference

    return reference.covariance(logp, advantages, mask, moments=moments)
