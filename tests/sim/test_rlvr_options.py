from __future__ import annotations

import math

import pytest
from typer.testing import CliRunner

from entropy_ext.recipes import RECIPES
from sim.__main__ import app
from sim.rlvr.options import configured, parse_options


def test_options_are_read_as_python_would():
    texts = ["a=0.3", "b = none", "c=True", "d=inf", "e=current_le", "f={1: 0.5}", "g=a=b"]
    expected = {"a": 0.3, "b": None, "c": True, "d": math.inf, "e": "current_le", "f": {1: 0.5}}
    assert parse_options(texts) == expected | {"g": "a=b"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["clip_high"], "expected name=value, got 'clip_high'"),
        (["=3"], "expected name=value, got '=3'"),
        (["dapo.clip_high=3"], "expected an argument's name before =, got 'dapo.clip_high'"),
        (["a=1", "a=2"], "a: given twice"),
    ],
)
def test_options_that_cannot_be_read(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_options(texts)


def test_arguments_of_sampling_reach_the_sampling():
    """And leave the rest of the recipe's own sampling as it is."""
    recipe = configured("bcpg_nsa", {"group_size": 3, "beta": -0.5, "top_p": 0.9})
    assert recipe.beta == -0.5
    sampling = recipe.sampling
    assert (sampling.group_size, sampling.top_p) == (3, 0.9)
    assert (sampling.offline, sampling.temperature) == (True, 0.7)


def test_recipes_are_composed_with_a_plus():
    recipe = configured("dapo+steer", {"clip_high": 0.5, "top_k": 3, "floor": 0.1})
    assert (recipe.clip_high, recipe.floor, recipe.sampling.top_k) == (0.5, 0.1, 3)
    assert recipe.needs == {"correct", "old_entropy"}
    assert recipe.sampling.refill == RECIPES["dapo"].sampling.refill > 0
    with pytest.raises(ValueError, match=r"compose: expected one of grpo, .*got 'stear'"):
        configured("dapo+stear", {})


@pytest.mark.parametrize("name", ["opo", "entropic", "gpg", "rloo", "skywork_or1"])
def test_recipes_meant_to_be_on_policy_take_one_optimizer_step(name):
    """By a recipe's own default, and other numbers if they are asked for."""
    assert (configured(name, {}).minibatches, configured(name, {}).epochs) == (1, 1)
    recipe = configured(name, {"minibatches": 3, "group_size": 5, "epochs": 2})
    assert (recipe.minibatches, recipe.epochs, recipe.sampling.group_size) == (3, 2, 5)


def test_more_teacher_traces_than_the_group_holds():
    with pytest.raises(ValueError, match=r"teacher_traces: expected at most 3, .* got 4"):
        configured("luffy", {"teacher_traces": 4, "group_size": 3})


def test_unknown_arguments_name_the_recipe():
    with pytest.raises(ValueError, match=r"recipe dapo: .*'clip_hihg'"):
        configured("dapo", {"clip_hihg": 0.3})
    with pytest.raises(ValueError, match="clip_high: expected a number >= 0, got -1"):
        configured("dapo", {"clip_high": -1})


def test_the_list_shows_every_recipe_and_its_needs():
    result = CliRunner().invoke(app, ["rlvr", "--list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    rows = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if "│" in line}
    assert rows.keys() >= RECIPES.keys()
    assert "correct, values, value pre-training" in rows["vapo"]
    assert "step_correct, stored responses" in rows["bcpg_nsa"]
    assert "ref_logp, survey of prompts" in rows["sent"]
    assert "2504.05118" in rows["vapo"]
    sizes = {name: [cell.strip() for cell in rows[name].split("│")[4:6]] for name in RECIPES}
    assert (sizes["opo"], sizes["dapo"], sizes["unlikeliness"]) == (
        ["16", "1"],
        ["16", "16"],
        ["32", "2"],
    )


def test_the_list_shows_whole_names_on_a_narrow_terminal():
    """Catches "high_entrop…", which --recipe does not take."""
    result = CliRunner().invoke(app, ["rlvr", "--list"], env={"COLUMNS": "80"})
    names = {line.split("│")[1].strip() for line in result.stdout.splitlines() if "│" in line}
    assert names >= RECIPES.keys()
    assert "…" not in result.stdout


def test_a_wrong_argument_is_told_on_the_command_line(tmp_path):
    arguments = ["rlvr", "--recipe", "dapo", "--set", "clip_hihg=1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "recipe dapo" in result.output
    assert "clip_hihg" in result.output
