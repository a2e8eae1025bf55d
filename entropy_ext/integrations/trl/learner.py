"""A recipe at work: what was collected for it, and its plan for the optimizer step."""

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
        recipe: its controllers move with the optimizer steps.
        accelerator: of the trainer.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator) -> None:
        self.recipe = recipe
        self.accelerator = accelerator
        self.reference_moved = False
        """the policy was made the reference since training began"""
        self._held_out: float | None = None
        self._collected: dict[bool, Collected] = {}
        self._recipes: dict[bool, Recipe] = {}
        self._plan: Plan | None = None

    def collect(
        self, rollout: Rollout, scored: Tensor, stats: TokenStats, *, training: bool
    ) -> Collected:
        """What one generation brought; see `collect.collect`."""
        # A validation must not move the controllers.
        recipe = self.recipe if training else copy.deepcopy(self.recipe)
        self._recipes[training] = recipe
        self._collected[training] = collect(recipe, rollout, scored, stats, self.accelerator)
        return self._collected[training]

    def recorded(self, response: Tensor) -> TokenStats:
        """Statistics of these responses by the policy that wrote them."""
        return stats_rows(self._collected[True].stats, response)

    @torch.no_grad()
    def prepare(self, response: Tensor, current: TokenStats | None, *, training: bool) -> None:
        """Plan one optimizer step.

        Args:
            response: [n] this rank's responses of the mini-batch, in the order of micro-batches.
            current: statistics of the policy as it is now, for recipes that look at those.
            training: rather than validating.
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
        """This micro-batch's share of the mini-batch's loss, sums over its tokens, and its plan.

        Args:
            stats: of the policy, differentiable.
            response: [b] this rank's responses of the micro-batch.
            rows: their places in the mini-batch.
            training: rather than validating.
            on_policy: the policy is the one that wrote the responses.
            weights: [b, T] or [b, 1] factors on the policy loss besides the recipe's, or None.
        """
        assert self._plan is not None
        plan = self._plan.rows(rows)
        if weights is not None:
            plan = plan.weighted(weights)
        collected = self._collected[training]
        rollout = collected.rollout.rows(response)
        if on_policy:
            # Exactly, not up to how another batch shape rounds.
            rollout = rollout.replace(old_logp=stats.logp.detach())
        targets = collected.targets.rows(response)
        loss, sums = self._recipes[training].token_loss(stats, rollout, targets, plan)
        return plan.aggregate(loss), sums, plan

    def validated(self, score: float) -> None:
        """A score on held-out prompts, for the recipe to see after its next training step."""
        self._held_out = score

    def finish(self) -> StepActions:
        """End a training step."""
        metrics = dict(self._collected[True].metrics)
        if self._held_out is not None:
            metrics["held_out"] = self._held_out
            self._held_out = None
        return self.recipe.after_step(metrics)

    def state_dict(self) -> dict[str, Any]:
        """What must survive an interruption; the same on every rank."""
        return {
            "name": self.recipe.name,
            "recipe": self.recipe.state_dict(),
            "held_out": self._held_out,
            "reference_moved": self.reference_moved,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: another recipe's.
        """
        if state["name"] != self.recipe.name:
            raise ValueError(
                f"recipe: the checkpoint is one of {state['name']}, got {self.recipe.name}"
            )
        self.recipe.load_state_dict(state["recipe"])
        self._held_out = state["held_out"]
        self.reference_moved = state["reference_moved"]
