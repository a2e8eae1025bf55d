"""REINFORCE++: advantages normalised over the whole batch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Targets
from entropy_ext.rl.advantages import batch_whiten, group_mean
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_choice
from entropy_ext.rl.rollout import Rollout

__all__ = ["ReinforcePP"]

Baseline = Literal["batch", "group"]


class ReinforcePP(Recipe):
    """REINFORCE++.

    Against GRPO: A is the reward, normalised by the mean and standard deviation over all tokens of
    the rollout instead of its group; mean over tokens. With baseline="group"
    (REINFORCE++-baseline), the group's mean is subtracted first.

    "REINFORCE++" (arXiv 2501.03262). The paper adds a divergence penalty to the reward of each
    token, which is left out here; kl_coef adds one to the loss.

    Args:
        baseline: "batch" or "group".
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "reinforce_pp"
    paper: ClassVar[str] = "arXiv 2501.03262"
    aggregation: Aggregation = "token-mean"

    def __init__(self, *, baseline: Baseline = "batch", **options: Any) -> None:
        self.refuse(options, "eps")
        super().__init__(**options)
        check_choice("baseline", baseline, get_args(Baseline))
        self.baseline = baseline

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """Rewards whitened over all tokens."""
        self.check(rollout)
        if self.baseline == "group":
            raw = group_mean(
                rollout.rewards, rollout.prompt, rollout.mask, singleton=self.singleton
            )
        else:
            raw = torch.where(rollout.mask, rollout.rewards.detach().unsqueeze(-1), 0.0)
        return Targets(batch_whiten(raw, rollout.mask, group=group))
