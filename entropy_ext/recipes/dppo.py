"""DPPO: a trust region in probability instead of ratio."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import Divergence, TokenLoss, dppo
from entropy_ext.rl.rollout import Rollout

__all__ = ["DppoKL", "DppoTV"]


class DppoTV(Recipe):
    """Divergence proximal policy optimization, total variation of the sampled token.

    Against GRPO: −sg(min(ρ, max_weight))·A·logp, and a token is left out once |π − π_old| exceeds
    the threshold in the direction of its advantage; the sum over a response's tokens is divided by
    the maximum length.

    DPPO (arXiv 2602.04879), with the weights of verl's policy loss, whose script has a cap of 1e4.

    Args:
        threshold: largest change of the token's probability.
        max_weight: cap on the ratio.
        options: the remaining arguments of `Recipe`; there is no clip.
    """

    name: ClassVar[str] = "dppo_tv"
    paper: ClassVar[str] = "arXiv 2602.04879"
    aggregation: Aggregation = "seq-mean-token-sum-norm"
    divergence: ClassVar[Divergence] = "tv"

    def __init__(
        self, *, threshold: float = 0.15, max_weight: float = 20.0, **options: Any
    ) -> None:
        self.refuse(options, "clip_low", "clip_high", "dual_clip")
        super().__init__(**options)
        check_bound("threshold", threshold, at_least=0)
        check_bound("max_weight", max_weight, above=0)
        self.threshold = threshold
        self.max_weight = max_weight

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Weighted log-likelihood of the tokens within the trust region."""
        return dppo(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            divergence=self.divergence,
            threshold=self.threshold,
            max_weight=self.max_weight,
        )


class DppoKL(DppoTV):
    """Divergence proximal policy optimization, binary KL of the sampled token.

    As `DppoTV`, with the divergence of the two-way distribution "this token or any other", π_old
    ln(π_old/π) + (1 − π_old) ln((1 − π_old)/(1 − π)), instead of |π − π_old|.

    DPPO (arXiv 2602.04879).

    Args:
        threshold: largest divergence, nats.
        max_weight: cap on the ratio.
        options: the remaining arguments of `Recipe`; there is no clip.
    """

    name: ClassVar[str] = "dppo_kl"
    divergence: ClassVar[Divergence] = "kl"

    def __init__(
        self, *, threshold: float = 0.05, max_weight: float = 20.0, **options: Any
    ) -> None:
        super().__init__(threshold=threshold, max_weight=max_weight, **options)
