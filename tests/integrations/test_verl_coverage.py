"""The table of what runs in verl, its copy in the docs, and what happens without verl."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from entropy_ext import recipes
from entropy_ext.integrations.verl import COVERAGE, register, replace_token_functions
from entropy_ext.integrations.verl.coverage import PROVIDED, check_covered, route
from entropy_ext.integrations.verl.installed import FIRST, UNTESTED, check_version
from tests.integrations.verl_cases import UNSTAGED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrations.md"


def _rows() -> dict[str, list[str]]:
    """recipe → the other cells of its row in the page's table of verl."""
    section = PAGE.read_text().partition("\n## verl")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, flags=re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_every_recipe_has_a_line() -> None:
    """Would catch a new recipe that register() does not know."""
    assert list(COVERAGE) == list(recipes.RECIPES)


def test_docs_say_what_the_code_does() -> None:
    """Would catch a table that promises, or refuses, something else than register()."""
    expected = {
        name: [row.loss or f"no: {row.missing}", row.left or "–"] for name, row in COVERAGE.items()
    }
    assert _rows() == expected


def test_docs_name_the_versions_and_the_settings() -> None:
    """Would catch a version range or a setting changed in the code alone."""
    section = PAGE.read_text().partition("\n## verl")[2].partition("\n## ")[0]
    assert f"verl>={FIRST},<{UNTESTED}" in section
    for field, setting in PROVIDED.values():
        assert f"`{field}`" in section
        assert setting.split(" ")[0].split("=")[0] in section


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_what_a_recipe_needs_is_there_or_it_is_refused(name: str) -> None:
    """Would catch a recipe whose needs grew, and that would fail in the middle of training."""
    recipe = recipes.get(name)
    row = COVERAGE[name]
    if row.loss is None:
        with pytest.raises(ValueError, match=name) as caught:
            check_covered(recipe)
        assert row.missing in str(caught.value)
        return
    if name in UNSTAGED:
        with pytest.raises(ValueError, match="stages=1"):
            check_covered(recipe)
        recipe = recipes.get(name, **UNSTAGED[name])
    check_covered(recipe)
    assert recipe.needs <= {"correct", *PROVIDED}
    assert not recipe.extras
    fields = recipe.needs - {"correct"}
    if row.loss == "policy loss":
        assert recipe.statistics == "micro"
        assert not fields


def test_options_can_change_the_route() -> None:
    """Would catch an exact form of STEER whose statistics verl does not compute."""
    assert route(recipes.get("steer")) == "actor hook"
    with pytest.raises(ValueError, match=r"stats\.collision"):
        check_covered(recipes.get("steer", form="exact"))
    assert route(recipes.get("grpo", entropy_coef=0.1)) == "actor hook"


@pytest.mark.parametrize("version", ["0.9.0", "0.9.1", "0.9.0.dev0", "0.9.12+cu1"])
def test_tested_versions_pass(version: str) -> None:
    """Would catch a range that shuts out what it was tested with."""
    check_version(version)


@pytest.mark.parametrize("version", ["0.8.0", "0.10.0", "1.0", "0.10.0rc1"])
def test_other_versions_are_refused_loudly(version: str) -> None:
    """Would catch private parts of another verl being replaced; 0.10 must not sort before 0.9."""
    with pytest.raises(ImportError, match=re.escape(version)):
        check_version(version)


@pytest.mark.parametrize("call", [register, replace_token_functions])
def test_without_verl_there_is_an_instruction(call, monkeypatch) -> None:
    """Would catch a ModuleNotFoundError from deep inside."""

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ImportError, match="pip install 'verl"):
        call()


def test_importing_us_imports_no_trainer() -> None:
    """Would catch verl, ray or transformers being imported for everybody."""
    program = (
        "import sys, entropy_ext, entropy_ext.recipes, entropy_ext.integrations.verl\n"
        "print([m for m in ('verl', 'trl', 'ray', 'transformers', 'tensordict') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
