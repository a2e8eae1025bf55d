"""Checks of the statistics that a recipe's `prepare` is given."""

from __future__ import annotations

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.rl.rollout import Rollout

__all__ = ["statistics_of"]


def statistics_of(recipe: Recipe, stats: TokenStats | None, rollout: Rollout) -> TokenStats:
    """Returns `stats`, after checking that they are what `prepare` needs.

    Raises:
        ValueError: None, without the extras that the recipe needs, or of another shape than the
            rollout's mask.
    """
    if stats is None:
        raise ValueError(f"recipe {recipe.name} needs stats of the {recipe.statistics}, got None")
    shape = rollout.mask.shape
    extras = ("collision", "collision_logp") if recipe.extras else ()
    for name in ("logp", "entropy", *extras):
        value = getattr(stats, name)
        if value is None:
            raise ValueError(
                f"recipe {recipe.name} needs stats.{name}, which is None: "
                "expected token_stats(..., extras=True)"
            )
        if value.shape != shape:
            raise ValueError(
                f"recipe {recipe.name} needs stats.{name} of the mask's shape {list(shape)}, "
                f"got {list(value.shape)}"
            )
    return stats
