"""GSPO: the ratio of the whole response is clipped."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.losses import TokenLoss, gspo
from entropy_ext.rl.rollout import Rollout

__all__ = ["Gspo"]


class Gspo(Recipe):
    """Group sequence policy optimization.

    Against GRPO: the ratio of a token is the geometric mean of the ratios in its response, clipped
    to bounds about a thousandth as wide; a response is clipped as a whole or not at all.

    "Group Sequence Policy Optimization" (arXiv 2507.18071), the token form of the loss, with the
    bounds of its experiments.

    Args:
        clip_low: the ratio of a response may fall to 1 − clip_low.
        clip_high: the ratio of a response may rise to 1 + clip_high.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "gspo"
    paper: ClassVar[str] = "arXiv 2507.18071"
    whole_sequences: bool = True

    def __init__(self, *, clip_low: float = 3e-4, clip_high: float = 4e-4, **options: Any) -> None:
        self.refuse(options, "dual_clip")
        super().__init__(clip_low=clip_low, clip_high=clip_high, **options)

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The loss, clipped by the ratio of the response."""
        return gspo(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
