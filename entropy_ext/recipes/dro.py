"""DRO: a quadratic penalty on the log-ratio."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, dro
from entropy_ext.rl.rollout import Rollout

__all__ = ["Dro"]


class Dro(Recipe):
    """Direct reward optimisation.

    Against GRPO: −(A·logp − (beta/2)·ln²ρ) instead of the clipped ratio, so that a token settles at
    ln ρ = A/beta; mean over tokens.

    As in verl's policy loss "dro". The value of beta could not be verified: 0.1 is the default of
    one port, 1 that of another.

    Args:
        beta: weight of the penalty; 0 is plain REINFORCE.
        options: the remaining arguments of `Recipe`; there is no clip.
    """

    name: ClassVar[str] = "dro"
    paper: ClassVar[str] = "verl, policy loss dro"
    aggregation: Aggregation = "token-mean"

    def __init__(self, *, beta: float = 0.1, **options: Any) -> None:
        self.refuse(options, "clip_low", "clip_high", "dual_clip")
        super().__init__(**options)
        check_bound("beta", beta, at_least=0)
        self.beta = beta

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Log-likelihood minus the penalty."""
        return dro(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            beta=self.beta,
        )
