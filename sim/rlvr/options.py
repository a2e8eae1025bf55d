"""A recipe by name, with options that came as text."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from entropy_ext import recipes
from entropy_ext.recipes import Recipe, Sampling

__all__ = ["chooses_prompts", "configured", "parse_options", "summary"]

_WORDS = {"true": True, "false": False, "none": None, "inf": float("inf")}
_SAMPLING = {field.name for field in fields(Sampling)}


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """["clip_high=0.3", "gate=current_le"] → {"clip_high": 0.3, "gate": "current_le"}.

    Values are Python literals; true, false, none and inf in any case; otherwise text.

    Raises:
        ValueError: not name=value, or a name given twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals):
            raise ValueError(f"expected name=value, got {text!r}")
        if not name.isidentifier():
            raise ValueError(f"expected an argument's name before =, got {name!r}")
        if name in options:
            raise ValueError(f"{name}: given twice")
        options[name] = _parsed(value)
    return options


def configured(name: str, options: Mapping[str, Any]) -> Recipe:
    """The recipe with these arguments; those that `Sampling` has are put into its sampling.

    Args:
        name: of a recipe, or of several to compose: "dapo+steer".
        options: arguments.

    Raises:
        ValueError: an unknown recipe, an argument it does not have or that is out of bounds.
    """
    own = {option: value for option, value in options.items() if option not in _SAMPLING}
    changed = {option: value for option, value in options.items() if option in _SAMPLING}
    sampling = replace(_named(name).sampling, **changed)
    try:
        return _named(name, sampling=sampling, **own)
    except TypeError as error:
        raise ValueError(f"recipe {name}: {error}") from error


def summary(name: str) -> tuple[str, str, str, str, str, str]:
    """Name, paper, first line of the description, responses per prompt, optimizer steps per
    rollout, and what it needs with its defaults.

    That is optional Rollout fields, and where they are there: stored data, value pre-training, and
    a survey of semantic entropy.
    """
    recipe = recipes.get(name)
    needs = sorted(recipe.needs)
    needs += ["stored responses"] * recipe.sampling.offline
    needs += ["value pre-training"] * (recipe.value_pretraining > 0)
    needs += ["survey of prompts"] * chooses_prompts(recipe)
    line = (type(recipe).__doc__ or "").strip().partition("\n")[0]
    return (
        name,
        recipe.paper,
        line.removesuffix("."),
        str(recipe.sampling.group_size),
        str(recipe.minibatches * recipe.epochs),
        ", ".join(needs) or "–",
    )


def chooses_prompts(recipe: Recipe) -> bool:
    """Whether the recipe has a curriculum of its own."""
    return type(recipe).select_prompts is not Recipe.select_prompts


def _named(name: str, **options: Any) -> Recipe:
    base, *parts = name.split("+")
    return recipes.compose(base, *parts, **options) if parts else recipes.get(name, **options)


def _parsed(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
