"""Advantages without division by the spread: a part for `compose` and a base of other recipes."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Targets
from entropy_ext.rl.advantages import group_mean
from entropy_ext.rl.rollout import Rollout

__all__ = ["MeanBaseline"]


class MeanBaseline(Recipe):
    """GRPO whose advantages are A = r − mean_g r, not divided by the standard deviation.

    "Understanding R1-Zero-Like Training: A Critical Perspective" (arXiv 2503.20783).

    Args:
        options: the arguments of `Recipe` except eps, as there is no standard deviation.
    """

    name: ClassVar[str] = "mean_baseline"
    paper: ClassVar[str] = "arXiv 2503.20783"

    def __init__(self, **options: Any) -> None:
        self.refuse(options, "eps")
        super().__init__(**options)

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """Reward above the group's mean."""
        self.check(rollout)
        rewards, prompt, mask = rollout.rewards, rollout.prompt, rollout.mask
        return Targets(group_mean(rewards, prompt, mask, singleton=self.singleton))
