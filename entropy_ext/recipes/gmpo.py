"""GMPO: the geometric mean of the token ratios."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.losses import TokenLoss, gmpo
from entropy_ext.rl.rollout import Rollout

__all__ = ["Gmpo"]


class Gmpo(Recipe):
    """Geometric-mean policy optimization.

    Against GRPO: the loss of a response is −A times the geometric mean of its token ratios instead
    of the arithmetic mean, with ln ρ of each token bounded in the direction of its advantage.

    "Geometric-Mean Policy Optimization" (arXiv 2507.20673), with the bounds of verl's scripts.

    Args:
        clip_low: bound on −ln ρ where A < 0, nats.
        clip_high: bound on ln ρ where A > 0, nats.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "gmpo"
    paper: ClassVar[str] = "arXiv 2507.20673"
    whole_sequences: bool = True

    def __init__(self, *, clip_low: float = 0.4, clip_high: float = 0.4, **options: Any) -> None:
        self.refuse(options, "dual_clip")
        super().__init__(clip_low=clip_low, clip_high=clip_high, **options)

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The geometric mean, clipped by token."""
        return gmpo(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
