"""Dr. GRPO: GRPO without its two divisions."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Sampling, Targets
from entropy_ext.rl.advantages import group_mean
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.rollout import Rollout

__all__ = ["DrGrpo"]


class DrGrpo(Recipe):
    """GRPO done right.

    Against GRPO: A = r − mean_g r, without division by the standard deviation; the loss of a
    response is the sum over its tokens divided by the longest allowed length, a constant, instead
    of its own length.

    "Understanding R1-Zero-Like Training: A Critical Perspective" (arXiv 2503.20783). Figures there:
    128 prompts × 8, length limit 3000. That a rollout makes 8 optimizer steps is our reading of the
    released command line.

    Args:
        zero_truncated: responses stopped by the length limit get reward 0, as in the released code;
            needs Rollout.truncated. False leaves the verdict to the checker.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "dr_grpo"
    paper: ClassVar[str] = "arXiv 2503.20783"
    aggregation: Aggregation = "seq-mean-token-sum-norm"
    minibatches: int = 8
    sampling: Sampling = Sampling(group_size=8)

    def __init__(self, *, zero_truncated: bool = False, **options: Any) -> None:
        self.refuse(options, "eps")
        super().__init__(**options)
        self.zero_truncated = zero_truncated
        if zero_truncated:
            self.needs = self.needs | {"truncated"}

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """Rewards, 0 for truncated responses if so wanted."""
        if not self.zero_truncated:
            return rollout.rewards
        self.check(rollout)
        return torch.where(cast(Tensor, rollout.truncated), 0.0, rollout.rewards)

    def targets(self, rollout: Rollout, *, group: dist.ProcessGroup | None = None) -> Targets:
        """Reward above the group's mean."""
        self.check(rollout)
        return Targets(
            group_mean(rollout.rewards, rollout.prompt, rollout.mask, singleton=self.singleton)
        )
