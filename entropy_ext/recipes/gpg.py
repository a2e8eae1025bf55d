"""GPG: plain policy gradient on group-relative rewards."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Plan, Targets
from entropy_ext.rl.advantages import gpg
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, reinforce
from entropy_ext.rl.rollout import Rollout

__all__ = ["Gpg"]


class Gpg(Recipe):
    """Group policy gradient.

    Against GRPO: no ratio and no clip, −A·logp; A = α(r − mean_g r)/scale, where α is the number of
    responses over the number with a nonzero reward; mean over tokens; one optimizer step per
    rollout, because nothing corrects for off-policy steps.

    "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning"
    (arXiv 2504.02546), with α as in verl.

    Args:
        scale: divides the advantages.
        options: the remaining arguments of `Recipe`; there is no clip and no std.
    """

    name: ClassVar[str] = "gpg"
    paper: ClassVar[str] = "arXiv 2504.02546"
    aggregation: Aggregation = "token-mean"
    minibatches: int = 1

    def __init__(self, *, scale: float = 1.0, **options: Any) -> None:
        self.refuse(options, "clip_low", "clip_high", "dual_clip", "eps")
        super().__init__(**options)
        check_bound("scale", scale, above=0)
        self.scale = scale

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """Reward minus the group's mean, scaled up when few responses earn a reward."""
        self.check(rollout)
        return Targets(
            gpg(
                rollout.rewards,
                rollout.prompt,
                rollout.mask,
                scale=self.scale,
                singleton=self.singleton,
                group=group,
            )
        )

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Log-likelihood weighted by advantage."""
        return reinforce(stats.logp, rollout.old_logp, targets.advantages, plan.mask)
