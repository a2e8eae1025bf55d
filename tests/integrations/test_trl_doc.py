"""The table of recipes in docs/integrations.md is what the code does."""

from __future__ import annotations

from pathlib import Path

from entropy_ext import recipes
from entropy_ext.integrations.trl import refusals, requirements
from entropy_ext.recipes import RECIPES, Recipe

DOC = Path(__file__).parents[2] / "docs" / "integrations.md"
HEADER = ["| recipe | in TRL | left out |", "|---|---|---|"]


def row(name: str) -> str:
    """The recipe's line."""
    recipe = recipes.get(name)
    refused, needed = refusals(recipe), requirements(recipe)
    verdict = "yes"
    if refused:
        verdict = "no: " + "; ".join(f"{field} ({reason})" for field, reason in refused)
    elif needed:
        verdict = "yes, given " + "; ".join(setting for _, setting in needed)
    left_out = "–"
    if not refused and recipe.sampling.refill:
        left_out = "replacement of dropped groups"
    return f"| `{name}` | {verdict} | {left_out} |"


def test_table_of_recipes() -> None:
    """A recipe that is new, or newly refused, and not in the table; a reason that has changed."""
    table = "\n".join([*HEADER, *map(row, RECIPES)])
    assert table in DOC.read_text(), f"expected in {DOC.name}:\n{table}"


def test_refill_is_the_only_hook_left_out() -> None:
    """A part of a recipe that TRL's trainer never calls, and the table does not name."""
    carried = [name for name in RECIPES if not refusals(recipes.get(name))]
    for name in carried:
        kind = type(recipes.get(name))
        assert kind.select_prompts is Recipe.select_prompts
        assert kind.value_loss is Recipe.value_loss
        assert recipes.get(name).value_pretraining == 0
        assert recipes.get(name).sampling.teacher_traces == 0
