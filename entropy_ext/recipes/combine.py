"""One recipe out of several: what each changes, together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any, TypeVar

from entropy_ext.recipes.base import Recipe
from entropy_ext.rl.aggregate import Aggregation

__all__ = ["check_options", "combine", "composite"]

REPLACED = (
    "select_prompts",
    "shape_rewards",
    "keep",
    "targets",
    "policy_loss",
    "value_loss",
    "after_step",
)
"""hooks of which only one part can have its way; `prepare` and `token_loss` build on super()'s"""

R = TypeVar("R", bound=Recipe)


def combine(
    base: type[Recipe], *parts: type[Recipe], aggregation: Aggregation | None = None
) -> type[Recipe]:
    """A recipe class that is the base with each part's changes.

    Args:
        base: gives the optimizer steps per rollout and the sampling.
        parts: later ones extend earlier ones.
        aggregation: what settles it where two of them average differently.

    Raises:
        ValueError: see `composite`; or two of them average differently.
    """
    classes = list(dict.fromkeys((*reversed(parts), base)))
    # What another one derives from is in it already, and could not stand before it.
    bases = [c for c in classes if not any(o is not c and issubclass(o, c) for o in classes)]
    figures = {
        "name": "+".join(dict.fromkeys(c.name for c in (base, *parts))),
        "paper": "; ".join(dict.fromkeys(c.paper for c in (base, *parts))),
        "minibatches": base.minibatches,
        "epochs": base.epochs,
        "value_pretraining": max(c.value_pretraining for c in classes),
        "sampling": replace(
            base.sampling,
            teacher_traces=max(c.sampling.teacher_traces for c in classes),
            offline=any(c.sampling.offline for c in classes),
        ),
        "__doc__": f"{', '.join(c.name for c in (base, *parts))} in one; see there.",
        "composed_of": (base, parts, aggregation),
        "__reduce__": lambda self: (_restored, (_formula(type(self)),), vars(self)),
    }
    combined: type[Recipe] = composite(type("Composed", tuple(bases), figures))
    averages = {c.aggregation: c.name for c in classes if _owner(c, "aggregation") is not Recipe}
    if aggregation is None and len(averages) > 1:
        (one, first), (other, second) = list(averages.items())[:2]
        raise ValueError(f"compose: {first} has the aggregation {one}, {second} {other}")
    own: Aggregation = next(iter(averages), Recipe.aggregation)
    combined.aggregation = own if aggregation is None else aggregation
    return combined


def composite(recipe: type[R]) -> type[R]:
    """Class decorator for a recipe with several base classes: checks that they can be one.

    Fields needed, statistics and whole sequences are then those of all parts.

    Raises:
        ValueError: two parts override a hook that cannot be shared, keep an attribute of the same
            name, or want other statistics.
    """
    parts: list[type[Recipe]] = [c for c in recipe.__bases__ if issubclass(c, Recipe)]
    for one, other in combinations(parts, 2):
        for hook in REPLACED:
            first, second = _owner(one, hook), _owner(other, hook)
            derived = issubclass(first, second) or issubclass(second, first)
            if hook not in vars(recipe) and not derived:
                raise ValueError(f"compose: {one.name} and {other.name} both override {hook}")
        # What the class that both derive from sets is one attribute; what each sets is two.
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
    # One part's loss need not read what another hands down to the base.
    recipe.refuse = classmethod(lambda cls, options, *names: None)  # type: ignore[assignment]
    return recipe


def check_options(recipe: type[Recipe], options: Mapping[str, Any]) -> None:
    """Raise TypeError for an argument of `Recipe` that nothing in a composition would read.

    One part's defaults may go unread, as a dual clip does beside a loss without one; what the
    caller asks for may not.
    """
    general = inspect.signature(Recipe).parameters
    asked = {name: value for name, value in options.items() if name in general}
    for hook in ("targets", "policy_loss"):
        _owner(recipe, hook)(**asked)


def _restored(formula: Any) -> Recipe:
    """An instance for pickle to fill: the class is made anew, for no module holds it."""
    recipe = _made(formula)
    return recipe.__new__(recipe)


def _formula(recipe: type[Recipe]) -> Any:
    """What pickle can hold of a class: itself, or of a composition what it was composed of."""
    if "composed_of" not in vars(recipe):
        return recipe
    base, parts, aggregation = vars(recipe)["composed_of"]
    return _formula(base), tuple(map(_formula, parts)), aggregation


def _made(formula: Any) -> type[Recipe]:
    """The class of a formula."""
    if isinstance(formula, type):
        return formula
    base, parts, aggregation = formula
    return combine(_made(base), *map(_made, parts), aggregation=aggregation)


def _owner(recipe: type[Recipe], name: str) -> type[Recipe]:
    return next(c for c in recipe.__mro__ if name in vars(c))
