"""SAPO: a soft gate instead of the clip."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, sapo
from entropy_ext.rl.rollout import Rollout

__all__ = ["Sapo"]


class Sapo(Recipe):
    """Soft adaptive policy optimization.

    Against GRPO: −A·(4/τ)·σ(τ(ρ − 1)) instead of the clipped ratio. Its slope decreases smoothly on
    either side of ρ = 1, slightly faster for tokens with negative advantage.

    "Soft Adaptive Policy Optimization" (arXiv 2511.20347).

    Args:
        tau_positive: τ where A > 0.
        tau_negative: τ elsewhere.
        options: the remaining arguments of `Recipe`; there is no clip.
    """

    name: ClassVar[str] = "sapo"
    paper: ClassVar[str] = "arXiv 2511.20347"

    def __init__(
        self, *, tau_positive: float = 1.0, tau_negative: float = 1.05, **options: Any
    ) -> None:
        self.refuse(options, "clip_low", "clip_high", "dual_clip")
        super().__init__(**options)
        check_bound("tau_positive", tau_positive, above=0)
        check_bound("tau_negative", tau_negative, above=0)
        self.tau_positive = tau_positive
        self.tau_negative = tau_negative

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The gated ratio."""
        return sapo(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            tau_positive=self.tau_positive,
            tau_negative=self.tau_negative,
        )
