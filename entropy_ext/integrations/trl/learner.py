"""Runs a recipe: the collected data, and the plan of the current optimizer step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.integrations.trl.collect import Collected, collect, stats_rows
from entropy_ext.recipes import Plan, Recipe, StepActions
from entropy_ext.rl import Rollout

__all__ = ["Learner"]


class Learner:
    """Runs a recipe's hooks on one rank's part of the data.

    Args:
        recipe: the recipe to run; its controllers change with the optimizer steps.
        accelerator: of the trainer.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator) -> None:
        self.recipe = recipe
        self.accelerator = accelerator
        self.reference_moved = False
        """whether the reference has been reset to the policy since training began"""
        self._held_out: float | None = None
        self._collected: dict[bool, Collected] = {}
        self._recipes: dict[bool, Recipe] = {}
        self._plan: Plan | None = None

    def collect(
        self, rollout: Rollout, scored: Tensor, stats: TokenStats, *, training: bool
    ) -> Collected:
        """Store the data of one generation; see `collect.collect`."""
        # Validation must not change the controllers.
        recipe = self.recipe if training else copy.deepcopy(self.recipe)
        self._recipes[training] = recipe
        self._collected[training] = collect(recipe, rollout, scored, stats, self.accelerator)
        return self._collected[training]

    def recorded(self, response: Tensor) -> TokenStats:
        """Statistics of these responses under the policy that wrote them."""
        return stats_rows(self._collected[True].stats, response)

    @torch.no_grad()
    def prepare(self, response: Tensor, current: TokenStats | None, *, training: bool) -> None:
        """Plan one optimizer step.

        Args:
            response: [n] indices of this rank's responses in the mini-batch, in micro-batch order.
            current: statistics of the current policy, for recipes that need them.
            training: True in training, False in validation.
        """
        recipe, collected = self._recipes[training], self._collected[training]
        stats = None
        if recipe.statistics == "minibatch":
            assert current is not None
            stats = TokenStats._make(x if x is None else x.detach() for x in current)
        elif recipe.statistics == "rollout":
            stats = stats_rows(collected.stats, response)
        group = dist.group.WORLD if self.accelerator.num_processes > 1 else None
        rollout, targets = collected.rollout.rows(response), collected.targets.rows(response)
        self._plan = recipe.prepare(stats, rollout, targets, group=group)

    def loss(
        self,
        stats: TokenStats,
        response: Tensor,
        rows: slice,
        *,
        training: bool,
        on_policy: bool,
        weights: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor], Plan]:
        """This micro-batch's contribution to the loss, sums over its tokens, and its plan.

        Args:
            stats: statistics of the policy, differentiable.
            response: [b] indices of this rank's responses in the micro-batch.
            rows: their positions in the mini-batch.
            training: True in training, False in validation.
            on_policy: whether the policy is the one that wrote the responses.
            weights: [b, T] or [b, 1] factors on the policy loss, in addition to the recipe's; or
                None.
        """
        assert self._plan is not None
        plan = self._plan.rows(rows)
        if weights is not None:
            plan = plan.weighted(weights)
        collected = self._collected[training]
        rollout = collected.rollout.rows(response)
        if on_policy:
            # Exactly equal, without the rounding differences of another batch shape.
            rollout = rollout.replace(old_logp=stats.logp.detach())
        targets = collected.targets.rows(response)
        loss, sums = self._recipes[training].token_loss(stats, rollout, targets, plan)
        return plan.aggregate(loss), sums, plan

    def validated(self, score: float) -> None:
        """Records a score on held-out prompts for the recipe's next `after_step`."""
        self._held_out = score

    def finish(self) -> StepActions:
        """End a training step."""
        metrics = dict(self._collected[True].metrics)
        if self._held_out is not None:
            metrics["held_out"] = self._held_out
            self._held_out = None
        return self.recipe.after_step(metrics)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint; the same on every rank."""
        return {
            "name": self.recipe.name,
            "recipe": self.recipe.state_dict(),
            "held_out": self._held_out,
            "reference_moved": self.reference_moved,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the state of another recipe.
        """
        if state["name"] != self.recipe.name:
            raise ValueError(
                f"recipe: the checkpoint is one of {state['name']}, got {self.recipe.name}"
            )
        self.recipe.load_state_dict(state["recipe"])
        self._held_out = state["held_out"]
        self.reference_moved = state["reference_moved"]
