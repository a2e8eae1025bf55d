"""The league: one budget for all, scores where the budget ends, standings that say what was run."""

from __future__ import annotations

import inspect

import pytest
import torch
from typer.testing import CliRunner

from entropy_ext import recipes
from sim.__main__ import app
from sim.lab import care, command
from sim.lab.care import Condition, criteria, judge_care
from sim.lab.exact import Policy
from sim.lab.experiment import QUICK
from sim.lab.experiments import EXPERIMENTS
from sim.lab.league import AT_1, AT_64, ROWS, association, best_of, gain, mean
from sim.lab.league_view import markdown, pareto, standings
from sim.lab.recipe_choices import CHOICES, CONTROLS
from sim.lab.store import Result, Store
from sim.lab.tables import Table
from sim.lab.tasks import prompt_set, random_bandit
from sim.lab.tuning import Setting, Trial, final, held_out, run, tune

SETTING = Setting(
    task=lambda seeds: random_bandit(seeds),
    steps=4,
    rates=(0.05, 0.2),
    scores=("pass@1", "pass@64"),
    groups=1,
)


def test_every_recipe_has_as_many_choices():
    """Catches a recipe that is left out, tuned longer than others, or by what it does not take."""
    assert CHOICES.keys() == recipes.RECIPES.keys()
    assert CHOICES.keys() > CONTROLS
    for name, choices in CHOICES.items():
        assert len(choices) == 2
        parameters = inspect.signature(recipes.RECIPES[name]).parameters
        for options in choices:
            recipe = recipes.get(name, **options)
            assert vars(recipe) != vars(recipes.get(name))
            known = {n: p.default for n, p in parameters.items()}
            assert all(known.get(option) != value for option, value in options.items())


def test_scores_are_read_where_the_budget_ends():
    """Catches the last value of a run that drew more than the others, or a point off the line."""
    setting = SETTING._replace(steps=2, groups=1, group_size=16)  # 32 responses
    history = {
        "sampled": torch.tensor([[0.0, 0.0, 0.0], [16.0, 24.0, 16.0], [32.0, 56.0, 24.0]]),
        "pass@1": torch.tensor([[0.1, 0.1, 0.1], [0.3, 0.2, 0.3], [0.9, 0.6, 0.7]]),
    }
    found = final(history, setting, "pass@1")
    torch.testing.assert_close(found, torch.tensor([0.9, 0.2 + 0.25 * 0.4, 0.7]))


def test_no_recipe_draws_more_than_another():
    """Catches refills that are had for nothing, and mini-batches of a handful of responses."""
    task = SETTING.task(range(10))
    plain = run(recipes.RECIPES["grpo"], {}, SETTING, task, 0.2, points=4)
    refilling = run(recipes.RECIPES["dapo"], {}, SETTING, task, 0.2, points=4)
    assert (final(plain, SETTING, "sampled") == SETTING.budget).all()
    assert (final(refilling, SETTING, "sampled") <= SETTING.budget).all()
    assert (refilling["sampled"][-1] > SETTING.budget).any()
    assert (final(plain, SETTING, "updates") == 4 * SETTING.steps).all()
    assert (final(refilling, SETTING, "updates") < 4 * SETTING.steps).any()


def test_tuning_names_the_configuration_it_scores():
    """Catches learning rates and scores that part ways: each against a run by itself."""
    seeds = range(1000, 1003)
    choices = ({}, {"clip_low": 0.1, "clip_high": 0.1})
    tried = tune(recipes.RECIPES["grpo"], choices, SETTING, Trial.of(SETTING, seeds))
    assert [config for config, _ in tried] == [(o, r) for o in choices for r in SETTING.rates]
    for config, scores in tried:
        alone = run(
            recipes.RECIPES["grpo"],
            config.options,
            SETTING,
            SETTING.task(seeds),
            config.rate,
            points=8,
        )
        for measure, score in zip(SETTING.scores, scores, strict=True):
            assert float(final(alone, SETTING, measure).mean()) == pytest.approx(score, abs=1e-12)
    assert str(tried[0][0]) == "rate 0.05"
    assert str(tried[3][0]) == "clip_low 0.1, clip_high 0.1, rate 0.2"


def test_held_out_scores_are_of_the_prompts_held_out():
    """Catches pass@64 of training prompts, or of the mean success."""
    task = prompt_set([3], prompts=3, held_out=2)
    policy = Policy.of(task.tree, task.logits(task.start))
    success = policy.mean(task.correct.double())[0, 3:]
    expected = (1 - (1 - success) ** 64).mean()
    torch.testing.assert_close(held_out(task, policy)["held_out@64"][0], expected)


def _league(scores):
    """Tables of a league: recipe → (pass@1, entropy kept) of twelve seeds, the same in each row."""
    rows = [
        (name, row, n, score + 0.002 * n, score, kept, 1.0, 30.0 if n else float("nan"), 64.0, 8.0)
        for name, (score, kept) in scores.items()
        for row in ROWS
        for n in range(12)
    ]
    columns = ("recipe", "row", "seed", "pass@1", "pass@64", "kept", "kl", "to 90 %")
    tuning = [(name, "rate 1", *[score] * 2) for name, (score, _) in scores.items()]
    return {
        "runs": Table.of((*columns, "sampled", "updates"), rows),
        "tuning": Table.of(("recipe", "configuration", "pass@1", "pass@64"), tuning),
    }


SCORES = {
    "grpo": (0.5, 0.25),
    "dapo": (0.625, 0.125),
    "kl_cov": (0.375, 0.5),
    "nsr": (0.25, 0.125),
}


def test_who_is_beaten_by_nobody():
    """Catches an order of one coordinate alone, and equals that drive each other out."""
    points = {"a": (0.1, 0.9), "b": (0.5, 0.5), "c": (0.4, 0.5), "d": (0.1, 0.9), "e": (0.9, 0.1)}
    assert pareto(points) == ["a", "b", "d", "e"]


def test_associations_and_gains_by_hand():
    """Catches another row, a sign, the best on the seeds reported, censored runs left out."""
    tables = _league(SCORES)
    # Ranks of pass@1 from dapo to nsr 4, 3, 2, 1, of entropy kept 1.5, 3, 4, 1.5.
    value = association(tables, AT_1, "pass@1").value
    assert value == pytest.approx(-0.5 / (5 * 4.5) ** 0.5, abs=1e-12)
    found = association(tables, AT_64, "pass@64")
    assert found.low < found.value < found.high
    assert best_of(tables, ["dapo", "kl_cov"], "pass@1") == "dapo"
    assert gain(tables, "dapo", "grpo", "pass@1").value == pytest.approx(0.125)
    assert mean(tables, "dapo", AT_1, "to 90 %").value == pytest.approx((64 + 11 * 30) / 12)


def test_standings_have_all_recipes_and_numbers():
    """Catches a row that is cut short, an order by the wrong score, a mark on a beaten recipe."""
    table = standings(_league(SCORES))
    assert table.where(row=AT_1).column("recipe") == ["dapo", "grpo", "kl_cov", "nsr"]
    assert len(table.rows) == 3 * len(SCORES)
    assert table.where(row=AT_1).column("Pareto") == ["*", "*", "*", ""]
    assert table.where(row=AT_1, recipe="grpo").column("pass@1") == ["0.511 ± 0.005"]
    text = markdown(_league(SCORES))
    assert text.count("\n| dapo | * | 0.636 ± 0.005 | 0.625 | 0.12 |") == 3


def test_the_league_is_printed_from_stored_results(tmp_path, monkeypatch):
    """Catches a table of other results, and a traceback where there are none."""
    name = "league_bandit"
    monkeypatch.setattr(command, "EXPERIMENTS", {name: EXPERIMENTS[name]})
    arguments = ["league", "--quick", "--out", str(tmp_path)]
    absent = CliRunner().invoke(app, arguments)
    assert absent.exit_code == 2
    assert "expected a result of league_bandit" in absent.output
    Store(tmp_path / "results", QUICK).save(EXPERIMENTS[name], Result(_league(SCORES), 1.0))
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0
    assert "## League: a needle" in printed.output
    assert "| dapo | * | 0.636 ± 0.005 |" in printed.output


def test_gains_of_control_by_hand(monkeypatch):
    """Catches the best method chosen on the seeds reported, and conditions that swap places."""
    monkeypatch.setattr(care, "METHODS", {"GRPO": (), "a": (), "b": ()})
    reached = {
        ("needed", "GRPO"): 0.5,
        ("needed", "a"): 0.6,
        ("needed", "b"): 0.9,
        ("other", "GRPO"): 0.5,
        ("other", "a"): 0.4,
        ("other", "b"): 0.53,
    }
    best = {("needed", "a"): 0.7, ("other", "b"): 0.7}
    runs = [(*key, s, n, x) for key, x in reached.items() for s in care.SCORES for n in range(12)]
    tuning = [(*key, s, "", best.get(key, 0.6)) for key in reached for s in care.SCORES]
    tables = {
        "runs": Table.of(("condition", "method", "score", "seed", "value"), runs),
        "tuning": Table.of(("condition", "method", "score", "configuration", "value"), tuning),
    }
    found = [interval.value for interval in judge_care(tables)]
    assert found == pytest.approx([0.1, 0.07, 0.1, 0.07])
    texts = [c.text for c in criteria(Condition("needed", SETTING), Condition("other", SETTING))]
    assert texts[1] == "pass@1, the same less that gain with other"
    assert len(texts) == len(found)
