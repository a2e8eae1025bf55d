"""Checks whether several recipes can be combined, and what the combination needs."""

from __future__ import annotations

from itertools import combinations
from typing import TypeVar

from entropy_ext.recipes.base import Recipe

__all__ = ["composite", "owner"]

REPLACED = (
    "select_prompts",
    "shape_rewards",
    "keep",
    "targets",
    "policy_loss",
    "value_loss",
    "after_step",
)
"""hooks that only one part may override; `prepare` and `token_loss` extend super()'s instead"""

R = TypeVar("R", bound=Recipe)


def composite(recipe: type[R]) -> type[R]:
    """Class decorator for a recipe with several base classes: checks that they can be combined.

    Needed fields, statistics and whole sequences are then those of all parts.

    Raises:
        ValueError: two parts override a hook that cannot be shared, have an attribute of the same
            name, or need different statistics.
    """
    parts: list[type[Recipe]] = [c for c in recipe.__bases__ if issubclass(c, Recipe)]
    for one, other in combinations(parts, 2):
        for hook in REPLACED:
            first, second = owner(one, hook), owner(other, hook)
            derived = issubclass(first, second) or issubclass(second, first)
            if hook not in vars(recipe) and not derived:
                raise ValueError(f"compose: {one.name} and {other.name} both override {hook}")
        # An attribute set by a common base class is shared; one set by each part is not.
        shared = next(c for c in one.__mro__ if issubclass(c, Recipe) and issubclass(other, c))
        known = vars(shared()).keys() | vars(Recipe).keys()
        if own := (vars(one()).keys() & vars(other()).keys()) - known:
            both = ", ".join(sorted(own))
            raise ValueError(f"compose: {one.name} and {other.name} each have their own {both}")
    wanted = {c.statistics: c.name for c in parts if c.statistics != "micro"}
    if len(wanted) > 1:
        raise ValueError(
            "compose: " + " and ".join(f"{n} wants {s} statistics" for s, n in wanted.items())
        )
    recipe.statistics = next(iter(wanted), "micro")
    recipe.needs = frozenset().union(*(c.needs for c in parts))
    recipe.extras = any(c.extras for c in parts)
    recipe.whole_sequences = any(c.whole_sequences for c in parts)
    # The loss of one part need not use what another part passes to the base.
    recipe.refuse = classmethod(lambda cls, options, *names: None)  # type: ignore[assignment]
    return recipe


def owner(recipe: type[Recipe], name: str) -> type[Recipe]:
    """The class that defines the recipe's attribute."""
    return next(c for c in recipe.__mro__ if name in vars(c))
