"""STEER: tokens that would change the entropy much count less."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext import TokenStats, steer_weights
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Plan, Sampling, Statistics, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.rollout import Rollout

__all__ = ["Steer"]

SteerForm = Literal["code", "own_logit", "exact"]
WeightMap = Literal["exp", "linear"]


class Steer(Recipe):
    """Stabilising token-level entropy change by reweighting.

    Against GRPO: each token's loss is multiplied by a weight that falls with the size of its
    estimated effect on the entropy, whatever the sign, the denominator unchanged; clip 0.2 / 0.28,
    dual clip 10; mean over tokens.

    "Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective" (arXiv 2510.10150).
    Figures there: 512 prompts × 8, 16 optimizer steps per rollout. The default is the released
    code's estimate (form="code") and map (lambda_min 0.8, weight_map "exp"); the paper's last
    version is reported to have lambda_min 0.7. weight_map="linear" goes from lambda_min to
    lambda_max. The code takes the range of the effects over a micro-batch, this over the optimizer
    step's tokens.

    Args:
        form: "code", "own_logit" or "exact", see `entropy_ext.steer_weights`.
        weight_map: "exp" or "linear".
        lambda_min: the least weight; 1 gives every token weight 1 under "exp".
        lambda_max: the greatest weight of the linear map.
        floor: weights stay near 1 while no effect exceeds it.
        clip_low: the ratio may fall to 1 − clip_low.
        clip_high: the ratio may rise to 1 + clip_high.
        dual_clip: bound on the ratio where the advantage is negative, or None.
        options: the remaining arguments of `Recipe`.
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
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        dual_clip: float | None = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, **options)
        check_choice("form", form, get_args(SteerForm))
        check_choice("weight_map", weight_map, get_args(WeightMap))
        check_bound("lambda_max", lambda_max, above=0, finite=True)
        largest = 1.0 if weight_map == "exp" else lambda_max
        check_bound("lambda_min", lambda_min, above=0, at_most=largest)
        check_bound("floor", floor, at_least=0)
        self.form = form
        self.weight_map = weight_map
        self.lambda_min = lambda_min
        self.lambda_max = lambda_max
        self.floor = floor
        # The class's own are those of a composition's other parts.
        self.extras = self.extras or form == "exact"

    @torch.no_grad()
    def prepare(
        self,
        stats: TokenStats | None,
        rollout: Rollout,
        targets: Targets,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> Plan:
        """The base's plan with STEER's weights."""
        plan = super().prepare(stats, rollout, targets, group=group)
        stats = statistics_of(self, stats, rollout)
        exact = self.form == "exact"
        entropy = cast(Tensor, rollout.old_entropy)
        known = plan.mask & stats.logp.isfinite() & rollout.old_logp.isfinite()
        weights = steer_weights(
            stats.logp,
            rollout.old_logp.to(stats.logp.dtype),
            entropy.to(stats.logp.dtype),
            targets.advantages.to(stats.logp.dtype),
            known & entropy.isfinite(),
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
