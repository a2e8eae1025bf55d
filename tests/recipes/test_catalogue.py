"""Every recipe has its file, its test, a row in docs/methods.md and its arguments explained."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from entropy_ext import recipes
from sim.lab.experiments import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[2]
METHODS = ROOT / "docs" / "methods.md"

every_recipe = pytest.mark.parametrize("name", recipes.RECIPES)


def _rows():
    """The catalogue's rows by name; other tables of the page have no links to recipes."""
    lines = METHODS.read_text().splitlines()
    rows = [line for line in lines if "](../entropy_ext/recipes/" in line]
    return [(match[1], line) for line in rows if (match := re.match(r"\| `(\w+)` \|", line))]


def _row(name):
    rows = [line for own, line in _rows() if own == name]
    assert len(rows) == 1, f"docs/methods.md: expected one row for `{name}`, found {len(rows)}"
    return rows[0]


def _cells(row):
    """Of a row; a bar within a cell is written \\|."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


@every_recipe
def test_row_leads_to_the_recipe_s_file_and_its_test(name):
    links = re.findall(r"\]\(([^)]+)\)", _row(name))
    files = [(METHODS.parent / link).resolve() for link in links]
    assert all(file.is_file() for file in files), links
    assert Path(inspect.getfile(recipes.RECIPES[name])) in files
    tests = [file for file in files if file.is_relative_to(ROOT / "tests" / "recipes")]
    assert tests
    assert any(f'"{name}"' in test.read_text() for test in tests)


@every_recipe
def test_row_names_the_arguments(name):
    """Catches symbols of a paper without the name to type, and arguments that are no more."""
    signature = inspect.signature(recipes.RECIPES[name]).parameters.values()
    own = [x.name for x in signature if x.kind is x.KEYWORD_ONLY]
    stated = _cells(_row(name))[4].partition("; arguments ")[2]
    assert re.findall(r"`(\w+)`", stated) == own


@every_recipe
def test_row_names_the_paper(name):
    row = _row(name)
    assert all(number in row for number in re.findall(r"\d{4}\.\d{5}", recipes.RECIPES[name].paper))


@every_recipe
def test_recipe_bears_the_name_it_is_known_by(name):
    assert recipes.RECIPES[name].name == name
    assert recipes.get(name).name == name


@every_recipe
def test_every_argument_is_explained(name):
    recipe = recipes.RECIPES[name]
    explained = inspect.getdoc(recipe).partition("Args:")[2]
    for argument, parameter in inspect.signature(recipe.__init__).parameters.items():
        if argument != "self":
            assert re.search(rf"^    {argument}: \S", explained, re.MULTILINE), argument
            if parameter.kind is not parameter.VAR_KEYWORD:
                assert parameter.kind is parameter.KEYWORD_ONLY


@every_recipe
def test_row_says_what_the_simulator_shows(name):
    """A phrase and, in backticks, the experiments that it rests on, which must exist."""
    heading = next(x for x in METHODS.read_text().splitlines() if x.startswith("| recipe | "))
    last = _cells(heading)[-1]
    assert last == "what the simulator shows"
    cells = _cells(_row(name))
    assert len(cells) == len(_cells(heading))
    experiments = re.findall(r"`([^`]+)`", cells[-1])
    assert experiments
    assert set(experiments) <= EXPERIMENTS.keys()
    assert re.search(r"\w", re.sub(r"`[^`]+`", "", cells[-1]))


def test_rows_are_in_the_order_of_the_recipes():
    assert [name for name, _ in _rows()] == list(recipes.RECIPES)


def _index():
    """The names that the index by problem links to their rows."""
    text = METHODS.read_text()
    section = text.partition("\n## Index by problem\n")[2].partition("\n## ")[0]
    links = re.findall(r"\[`(\w+)`\]\(#recipe-(\w+)\)", section)
    assert all(name == row for name, row in links), links
    return {name for name, _ in links}


def test_index_leads_to_every_recipe():
    """A recipe that a reader with its problem would not find, or a link to none."""
    assert _index() == set(recipes.RECIPES)


@every_recipe
def test_index_links_end_at_the_row(name):
    assert f'<a id="recipe-{name}"></a>' in _row(name)
