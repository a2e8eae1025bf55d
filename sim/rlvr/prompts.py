"""What is known of each problem, and which problems come next."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from entropy_ext.recipes import PromptStats, Recipe
from entropy_ext.rl import Rollout
from entropy_ext.rl.semantic_entropy import exact_answers, semantic_entropy, sequence_score
from sim.rlvr.task import ChainSum

__all__ = ["Prompts"]


class Prompts:
    """Tries, successes and semantic entropy of each problem, for a recipe's curriculum.

    Semantic entropy is measured once, before training, of a survey of the task's problems; a run
    that has a survey then trains on these problems alone.

    Args:
        task: the problems.
        survey: how many of them to measure, chosen at random; 0 measures none and trains on all.
        generator: source of that chance.
    """

    def __init__(self, task: ChainSum, survey: int, generator: torch.Generator) -> None:
        self._attempts = torch.zeros(len(task), dtype=torch.int64)
        self._successes = torch.zeros(len(task), dtype=torch.int64)
        self._semantic_entropy = torch.full((len(task),), math.nan)
        self._domain = task.domain
        self.waiting = torch.zeros(0, dtype=torch.int64)
        """problems that are still to be surveyed"""
        if survey > 0:
            self.waiting = torch.randperm(len(task), generator=generator)[:survey]

    @property
    def trainable(self) -> Tensor:
        """[P] bool: the problems of the survey, or all if there is none."""
        measured = ~self._semantic_entropy.isnan()
        return measured if measured.any() else torch.ones_like(measured)

    def weights(self, recipe: Recipe, progress: float) -> Tensor:
        """[P] ≥ 0: how likely the recipe wants each problem to come next.

        Raises:
            ValueError: weights of another shape, or none above 0.
        """
        entropy = self._semantic_entropy
        stats = PromptStats(
            self._attempts,
            self._successes,
            None if entropy.isnan().all() else entropy,
            self._domain,
        )
        weights = recipe.select_prompts(stats, progress)
        if weights.shape != entropy.shape:
            raise ValueError(
                f"recipe {recipe.name}: expected prompt weights of shape {list(entropy.shape)}, "
                f"got {list(weights.shape)}"
            )
        weights = torch.where(self.trainable, weights, 0.0)
        if not (weights > 0).any():
            raise ValueError(f"recipe {recipe.name}: no prompt has a weight above 0")
        return weights

    def tried(self, problems: Tensor, correct: Tensor) -> None:
        """Count responses to problems [B], int64, and whether each was right, [B] bool."""
        self._attempts += torch.bincount(problems, minlength=len(self._attempts))
        self._successes += torch.bincount(problems[correct], minlength=len(self._attempts))

    def surveyed(self, rollout: Rollout) -> None:
        """Note the semantic entropy of each group, and strike its problem, `prompt`, off."""
        score = sequence_score(rollout.old_logp, rollout.mask)
        entropy = semantic_entropy(score, rollout.prompt, exact_answers(rollout))
        self._semantic_entropy[rollout.prompt] = entropy
        self.waiting = self.waiting[self._semantic_entropy[self.waiting].isnan()]

    def state_dict(self) -> dict[str, Any]:
        return {
            "attempts": self._attempts,
            "successes": self._successes,
            "semantic_entropy": self._semantic_entropy,
            "waiting": self.waiting,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._attempts = state["attempts"]
        self._successes = state["successes"]
        self._semantic_entropy = state["semantic_entropy"]
        self.waiting = state["waiting"]
