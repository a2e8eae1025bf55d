"""Combines several recipes into one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.composite import composite, owner
from entropy_ext.rl.aggregate import Aggregation

__all__ = ["check_options", "combine"]


def combine(
    base: type[Recipe], *parts: type[Recipe], aggregation: Aggregation | None = None
) -> type[Recipe]:
    """A recipe class: the base with the changes of each part.

    Args:
        base: gives the optimizer steps per rollout and the sampling.
        parts: later ones extend earlier ones.
        aggregation: the aggregation to use if two of them average differently.

    Raises:
        ValueError: see `composite`; or two of them average differently; or both correct for the
            sampler.
    """
    classes = list(dict.fromkeys((*reversed(parts), base)))
    if len(correcting := [c.name for c in classes if c.corrects_sampler]) > 1:
        raise ValueError(
            f"compose: {correcting[1]} and {correcting[0]} both correct for the sampler"
        )
    # A class that another one derives from is contained in it, and may not precede it.
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
    averages = {c.aggregation: c.name for c in classes if owner(c, "aggregation") is not Recipe}
    if aggregation is None and len(averages) > 1:
        (one, first), (other, second) = list(averages.items())[:2]
        raise ValueError(f"compose: {first} has the aggregation {one}, {second} {other}")
    own: Aggregation = next(iter(averages), Recipe.aggregation)
    combined.aggregation = own if aggregation is None else aggregation
    return combined


def check_options(recipe: type[Recipe], options: Mapping[str, Any]) -> None:
    """Raise TypeError for an argument of `Recipe` that nothing in the composition would use.

    A default of one part may go unused, such as a dual clip beside a loss without one, but an
    argument that the caller passes may not.
    """
    general = inspect.signature(Recipe).parameters
    for hook in ("targets", "policy_loss"):
        part = owner(recipe, hook)
        # Including its own arguments: the given ones may be valid only together with them.
        known = general.keys() | inspect.signature(part).parameters.keys()
        part(**{name: value for name, value in options.items() if name in known})


def _restored(formula: Any) -> Recipe:
    """An instance for pickle to fill; the class is rebuilt, because no module holds it."""
    recipe = _made(formula)
    return recipe.__new__(recipe)


def _formula(recipe: type[Recipe]) -> Any:
    """What pickle stores for a class: the class itself, or the parts of a composition."""
    if "composed_of" not in vars(recipe):
        return recipe
    base, parts, aggregation = vars(recipe)["composed_of"]
    return _formula(base), tuple(map(_formula, parts)), aggregation


def _made(formula: Any) -> type[Recipe]:
    """The class that `_formula` describes."""
    if isinstance(formula, type):
        return formula
    base, parts, aggregation = formula
    return combine(_made(base), *map(_made, parts), aggregation=aggregation)
