"""STEER: tokens whose update would change the entropy much get less weight."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from entropy_ext import TokenStats, steer_weights
from entropy_ext.recipes.clip_higher import ClipHigher
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Group, Plan, Sampling, Statistics, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.rollout import Rollout

__all__ = ["Steer"]

SteerForm = Literal["code", "own_logit", "exact"]
WeightMap = Literal["exp", "linear"]


class Steer(ClipHigher):
    """Stabilising token-level entropy change by reweighting.

    Against GRPO: each token's loss is multiplied by a weight that decreases with the size of its
    estimated effect on the entropy, whatever its sign; the denominator is unchanged; clip 0.2 /
    0.28, dual clip 10; mean over tokens.

    "Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective" (arXiv 2510.10150):
    512 prompts × 8, 16 optimizer steps per rollout. Estimate and map are those of the released
    code, but the range of the effects is taken over the tokens of the optimizer step instead of a
    micro-batch. The last version of the paper reportedly has lambda_min 0.7.

    Args:
        form: "code", "own_logit" or "exact", see `entropy_ext.steer_weights`.
        weight_map: "exp" or "linear".
        lambda_min: the smallest weight; with "exp", 1 gives every token the weight 1.
        lambda_max: the largest weight of the linear map.
        floor: weights stay near 1 while no effect exceeds it.
        dual_clip: bound on the ratio where the advantage is negative, or None.
        options: the remaining arguments of `ClipHigher`.
    """

    name: ClassVar[str] = "steer"
    paper: ClassVar[str] = "arXiv 2510.10150"
    needs: frozenset[str] = frozenset({"old_entropy"})
    aggregation: Aggregation = "token-mean"
    statistics: Statistics = "minibatch"
    minibatches: int = 16
    sampling: Sampling = Sampling(group_size=8)

    def __init__(
        self,
        *,
        form: SteerForm = "code",
        weight_map: WeightMap = "exp",
        lambda_min: float = 0.8,
        lambda_max: float = 1.2,
        floor: float = 0.02,
        dual_clip: float | None = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(dual_clip=dual_clip, **options)
        self.form: SteerForm = check_choice("form", form, get_args(SteerForm))
        self.weight_map: WeightMap = check_choice("weight_map", weight_map, get_args(WeightMap))
        self.lambda_max = check_bound("lambda_max", lambda_max, above=0, finite=True)
        largest = 1.0 if weight_map == "exp" else lambda_max
        self.lambda_min = check_bound("lambda_min", lambda_min, above=0, at_most=largest)
        self.floor = check_bound("floor", floor, at_least=0)
        # The attributes of the class itself are those of the other parts of a composition.
        self.extras = self.extras or form == "exact"

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan, with STEER's weights."""
        plan = super().prepare(stats, rollout, targets, group=group)
        stats = statistics_of(self, stats, rollout)
        exact = self.form == "exact"
        inputs = [rollout.old_logp, cast(Tensor, rollout.old_entropy), targets.advantages]
        old_logp, entropy, advantages = (x.to(stats.logp.dtype) for x in inputs)
        weights = steer_weights(
            stats.logp,
            old_logp,
            entropy,
            advantages,
            plan.mask & stats.logp.isfinite() & old_logp.isfinite() & entropy.isfinite(),
            form=self.form,
            weight_map=self.weight_map,
            lambda_min=self.lambda_min,
            lambda_max=self.lambda_max,
            floor=self.floor,
            collision=stats.collision if exact else None,
            collision_logp=stats.collision_logp if exact else None,
            group=group,
        )
        return plan.weighted(weights)
