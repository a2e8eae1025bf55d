"""Positive-advantage reweighting: tokens with A > 0 count less while entropy is low."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Group, Plan, Statistics, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.controllers import EntropyGuided, epoch_weight, stage_weight
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.statistics import masked_mean

__all__ = ["PositiveReweight"]

Schedule = Literal["entropy", "stage", "epoch"]


class PositiveReweight(Recipe):
    """Multiplies the loss of tokens with positive advantage by λ, which follows a schedule.

    Against GRPO: λ in [0, 1] on tokens with A > 0, other tokens and the denominator unchanged; mean
    over the tokens of the mini-batch. Schedules of λ:

    - "entropy": starts at 0; falls by delta while the mean entropy is below threshold, else rises;
    - "stage":   0 for the first half of training, then linear to 1;
    - "epoch":   (e − 1)/(E − 1) in epoch e of E.

    "Revisiting Entropy in Reinforcement Learning for Large Reasoning Models" (arXiv 2511.05993).
    Known only from notes; that the denominator is unchanged is an assumption. delta is per training
    step; λ moves at every optimizer step, by its share of delta.

    Args:
        schedule: one of the three above.
        threshold: entropy, nats.
        delta: change of λ per training step.
        initial: the initial λ of "entropy".
        training_epochs: E, passes over the training set, for "epoch".
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "positive_reweight"
    paper: ClassVar[str] = "arXiv 2511.05993"
    aggregation: Aggregation = "token-mean"
    statistics: Statistics = "minibatch"

    def __init__(
        self,
        *,
        schedule: Schedule = "entropy",
        threshold: float = 0.2,
        delta: float = 0.05,
        initial: float = 0.0,
        training_epochs: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_choice("schedule", schedule, get_args(Schedule))
        check_bound("delta", delta, at_least=0)
        check_bound("training_epochs", training_epochs, at_least=1, integer=True)
        self.schedule = schedule
        self.training_epochs = training_epochs
        share = self.minibatches * self.epochs
        self.weight = EntropyGuided(threshold, delta=delta / share, initial=initial)

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan, with λ as the weight of positive tokens."""
        plan = super().prepare(stats, rollout, targets, group=group)
        positive = targets.advantages > 0
        if self.schedule == "entropy":
            stats = statistics_of(self, stats, rollout)
            known = rollout.mask & torch.isfinite(stats.entropy)
            weight = self.weight.step(masked_mean(stats.entropy, known, group=group))
            return plan.weighted(torch.where(positive, weight, 1.0))
        scheduled = (
            stage_weight(rollout.progress)
            if self.schedule == "stage"
            else epoch_weight(rollout.progress, epochs=self.training_epochs)
        )
        weight = rollout.old_logp.new_full((), scheduled)
        return plan.weighted(torch.where(positive, weight, 1.0))
