"""The example of a plain PyTorch loop, as a reader would run it, only shorter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "custom_loop.py"


@pytest.fixture(scope="module")
def example(one_thread):
    spec = importlib.util.spec_from_file_location("custom_loop", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_grpo_learns_the_larger_digit(example):
    """Would catch a loss of the wrong sign, and rewards that reach other responses' tokens."""
    history = example.train("grpo", steps=14)
    first, last = history[0], history[-1]
    assert first["reward"] < 0.2
    assert last["reward"] > 2 * first["reward"]
    assert last["entropy"] < first["entropy"]


@pytest.mark.parametrize("name", ["dapo", "clip_cov", "steer", "entropic", "sent", "seed_grpo"])
def test_other_recipes_run_by_name(example, name):
    """Would catch a field, statistics or a plan that a recipe asks for and the loop lacks."""
    history = example.train(name, steps=2, groups=4)
    assert len(history) == 2
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in history)


def test_sampling_and_epochs_are_the_recipe_s(example, monkeypatch):
    """Would catch a temperature of 1 for a recipe at 0.6, and one pass for a recipe of two."""
    steps = []
    whole = example.update
    monkeypatch.setattr(example, "update", lambda *a, **k: steps.append(whole(*a, **k)))
    (plain,), (cool,) = (example.train(name, steps=1, groups=4) for name in ("grpo", "entropic"))
    assert cool["entropy"] < plain["entropy"] - 0.01
    steps.clear()
    example.train("unlikeliness", steps=1, groups=4)
    assert len(steps) == 2


def test_micro_batches_do_not_change_the_step(example):
    """Would catch a normaliser or a selection per micro-batch."""
    from entropy_ext import recipes

    weights = []
    for micro_batch in (8, 64):
        recipe = recipes.get("kl_cov", fraction=0.1)
        model = example.build_model(3)
        prompt, rollout = example.collect(model, model, recipe, 8, 0, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        # Off the old policy, so that the penalty has a gradient.
        rollout = rollout.replace(old_logp=rollout.old_logp - 0.3)
        targets = recipe.targets(rollout)
        example.update(model, optimizer, recipe, prompt, rollout, targets, micro_batch)
        weights.append(model.lm_head.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)
    assert not torch.equal(weights[0], example.build_model(3).lm_head.weight)


def test_a_recipe_that_needs_more_says_what(example):
    """Would catch a loop that trains on made-up values."""
    with pytest.raises(ValueError, match=r"Rollout\.values"):
        example.train("vapo", steps=1, groups=2)


def test_command_line():
    """Would catch an argument renamed in the code alone."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--recipe", "gspo", "--steps", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[:2] == ["1", "reward"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--recipe", "luffy"], "luffy needs teacher"),
        (["--recipe", "nope"], "invalid choice: 'nope'"),
        (["--steps", "0"], "--steps: expected at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, complaint):
    """Would catch a traceback in place of a message."""
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert complaint in done.stderr
