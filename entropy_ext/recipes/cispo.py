"""CISPO: the clip bounds a token's weight but never removes its gradient."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.losses import TokenLoss, cispo
from entropy_ext.rl.rollout import Rollout

__all__ = ["Cispo"]


class Cispo(Recipe):
    """Clipped importance-sampling policy optimization.

    Against GRPO: −sg(clip(ρ))·A·logp, where the clip bounds the weight of a token's gradient
    instead of removing it; no lower bound; mean over tokens.

    "MiniMax-M1" (arXiv 2506.13585), with the bounds of verl's script. TRL caps the ratio at
    an absolute epsilon_high: its 5 for ScaleRL is clip_high=4.

    Args:
        clip_low: the weight is at least 1 − clip_low; 1 is no lower bound.
        clip_high: the weight is at most 1 + clip_high.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "cispo"
    paper: ClassVar[str] = "arXiv 2506.13585"
    aggregation: Aggregation = "token-mean"

    def __init__(self, *, clip_low: float = 1.0, clip_high: float = 0.2, **options: Any) -> None:
        self.refuse(options, "dual_clip")
        super().__init__(clip_low=clip_low, clip_high=clip_high, **options)

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Log-likelihood with a bounded weight."""
        return cispo(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
