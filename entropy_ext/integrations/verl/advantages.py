"""Recipes as advantage estimators of verl's registry."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entropy_ext.integrations.verl.coverage import COVERAGE, check_covered
from entropy_ext.recipes import Recipe
from entropy_ext.rl import Rollout

__all__ = ["advantage_estimator"]


def advantage_estimator(
    recipe: Recipe, *, correct_above: float | None = None
) -> Callable[..., tuple[Tensor, Tensor]]:
    """A function with verl's estimator signature that computes the recipe's targets.

    The reward of a response is the sum of its token_level_rewards; responses with the same index
    answer the same prompt. Advantages and returns, [B, T], are 0 off the mask; without a value head
    they are equal.

    Args:
        recipe: any recipe.
        correct_above: responses with a greater reward count as right, for recipes that use only
            whether an answer is right.
    """
    coverage = COVERAGE[recipe.name]
    # Fields for losses and filters are not available yet, and not needed for the advantages.
    recipe = copy.copy(recipe)
    recipe.needs = frozenset({"correct"}) if coverage.correct else frozenset()

    @torch.no_grad()
    def estimate(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: Sequence[Any] | None = None,
        config: Any = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor]:
        check_covered(recipe)
        if index is None:
            raise ValueError("index: expected the uid of each response's prompt, got None")
        if coverage.correct and correct_above is None:
            raise ValueError(
                f"recipe {recipe.name} needs Rollout.correct; verl passes rewards alone: "
                "register(correct_above=0.5) says which of them count as right"
            )
        mask = response_mask.bool()
        rewards = torch.where(mask, token_level_rewards, 0.0).sum(-1)
        _, prompt = np.unique(np.asarray(index), return_inverse=True)
        rollout = Rollout(
            tokens=torch.zeros_like(mask, dtype=torch.int64),
            mask=mask,
            rewards=rewards,
            prompt=torch.as_tensor(prompt.reshape(-1), device=mask.device),
            old_logp=torch.zeros_like(token_level_rewards),
            max_length=max(1, mask.shape[1]),
            step=0,
            progress=0.0,
            correct=None if correct_above is None else rewards > correct_above,
        )
        advantages = recipe.targets(rollout).advantages
        if coverage.correct:
            advantages = torch.where(recipe.keep(rollout)[:, None], advantages, 0.0)
        return advantages, advantages

    estimate.__name__ = f"entropy_ext_{recipe.name}"
    return estimate
