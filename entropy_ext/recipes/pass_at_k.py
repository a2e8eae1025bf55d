"""Pass@k: a part for `compose`."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Targets
from entropy_ext.rl.advantages import pass_at_k_advantage
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.rollout import Rollout

__all__ = ["PassAtK"]


class PassAtK(Recipe):
    """GRPO for the best reward among k responses instead of the mean of all.

    A = (mean of the best over subsets of k with the response − over all subsets)/(their std + eps).

    "Pass@k Training for Adaptively Balancing Exploration and Exploitation of Large Reasoning
    Models" (arXiv 2508.10751).

    Args:
        k: 1 is GRPO with the biased standard deviation; groups must be larger.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "pass_at_k"
    paper: ClassVar[str] = "arXiv 2508.10751"

    def __init__(self, *, k: int = 4, **options: Any) -> None:
        self.refuse(options, "singleton")
        super().__init__(**options)
        check_bound("k", k, at_least=1, at_most=self.sampling.group_size - 1, integer=True)
        self.k = k

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """The contribution of each response to the best of k."""
        self.check(rollout)
        # A trainer may have changed the group size since; in smaller groups, all advantages would
        # be 0.
        check_bound("k", self.k, at_most=self.sampling.group_size - 1)
        rewards, prompt, mask = rollout.rewards, rollout.prompt, rollout.mask
        return Targets(pass_at_k_advantage(rewards, prompt, mask, k=self.k, eps=self.eps))
