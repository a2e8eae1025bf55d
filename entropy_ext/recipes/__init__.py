"""One recipe per paper; each overrides only what its paper changes against GRPO."""

from __future__ import annotations

from typing import Any

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.dapo import Dapo
from entropy_ext.recipes.entropy_neutral import EntropyNeutral
from entropy_ext.recipes.types import (
    Plan,
    PromptStats,
    Sampling,
    StepActions,
    Targets,
)
from entropy_ext.recipes.vapo import Vapo

__all__ = [
    "RECIPES",
    "Dapo",
    "EntropyNeutral",
    "Plan",
    "PromptStats",
    "Recipe",
    "Sampling",
    "StepActions",
    "Targets",
    "Vapo",
    "get",
]

RECIPES: dict[str, type[Recipe]] = {
    "grpo": Recipe,
    "dapo": Dapo,
    "vapo": Vapo,
    "entropy_neutral": EntropyNeutral,
}
"""Every recipe by name."""


def get(name: str, **options: Any) -> Recipe:
    """The recipe of that name, with the paper's defaults unless `options` says otherwise.

    Args:
        name: a key of RECIPES.
        options: arguments of the recipe's class, such as clip_high=0.3.

    Raises:
        ValueError: an unknown name, or an option out of its bounds.
        TypeError: an option the recipe does not have.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name](**options)
