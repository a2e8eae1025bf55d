"""Positive-advantage reweighting: what makes entropy collapse counts less while it is low."""

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
    """The loss of tokens of positive advantage is multiplied by λ, which a schedule moves.

    Against GRPO: λ in [0, 1] on tokens with A > 0, the others and the denominator unchanged; mean
    over the tokens of the mini-batch. Schedules of λ:

    - "entropy": from 0, down by delta where the mean entropy is below threshold, else up by it;
    - "stage":   0 for the first half of training, then linear to 1;
    - "epoch":   (e − 1)/(E − 1) in epoch e of E.

    "Revisiting Entropy in Reinforcement Learning for Large Reasoning Models" (arXiv 2511.05993).
    Known from notes on it only; that the denominator stays is our reading. delta is per training
    step; λ moves at every optimizer step, by its share.

    Args:
        schedule: one of the three above.
        threshold: of the entropy, nats.
        delta: change of λ per training step.
        initial: the first λ of "entropy".
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
        """The base's plan with λ on positive tokens."""
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
