"""Dynamic sampling: DAPO's group filter, a part for `compose` and a base of other recipes."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Sampling
from entropy_ext.rl.groups import Groups
from entropy_ext.rl.rollout import Rollout

__all__ = ["DynamicSampling"]


class DynamicSampling(Recipe):
    """GRPO on groups with both right and wrong answers; other groups are dropped and replaced.

    "DAPO: An Open-Source LLM Reinforcement Learning System at Scale" (arXiv 2503.14476, eq. 11).
    """

    name: ClassVar[str] = "dynamic_sampling"
    paper: ClassVar[str] = "arXiv 2503.14476"
    needs: frozenset[str] = frozenset({"correct"})
    sampling: Sampling = Sampling(refill=9)

    def keep(self, rollout: Rollout) -> Tensor:
        """Responses of groups with both right and wrong answers."""
        self.check(rollout)
        return Groups(rollout.prompt).varies(cast(Tensor, rollout.correct))
