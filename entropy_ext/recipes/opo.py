"""OPO: exact on-policy steps with the variance-optimal baseline."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Targets
from entropy_ext.rl.advantages import opo
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_choice
from entropy_ext.rl.precision import at_least_float32
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.statistics import masked_mean

__all__ = ["Opo"]

Scope = Literal["group", "batch"]


class Opo(Recipe):
    """On-policy RL with Optimal reward baseline.

    Against GRPO: A = r − Σ l·r/Σ l, without division by the spread; and one optimizer step per
    rollout, so that the ratio is 1 and the clip never acts.

    "On-Policy RL with Optimal Reward Baseline" (arXiv 2505.23585). No KL, no entropy bonus. The
    derivation is for a sum over tokens, which equals the token mean up to a constant; the paper
    does not specify the aggregation. The released code also offers a baseline over the whole batch.

    Args:
        scope: whether the baseline is over the "group" or over the whole "batch".
        options: the remaining arguments of `Recipe`; singleton="reward" as in verl.
    """

    name: ClassVar[str] = "opo"
    paper: ClassVar[str] = "arXiv 2505.23585"
    aggregation: Aggregation = "token-mean"
    minibatches: int = 1

    def __init__(self, *, scope: Scope = "group", **options: Any) -> None:
        self.refuse(options, "eps")
        super().__init__(**options)
        check_choice("scope", scope, get_args(Scope))
        self.scope = scope

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """Reward minus the length-weighted mean."""
        self.check(rollout)
        rewards, mask = rollout.rewards, rollout.mask
        if self.scope == "group":
            return Targets(opo(rewards, rollout.prompt, mask, singleton=self.singleton))
        # A mean over tokens weights each reward by the length of its response.
        spread = at_least_float32(rewards).unsqueeze(-1).expand_as(mask)
        return Targets(torch.where(mask, spread - masked_mean(spread, mask, group=group), 0.0))
