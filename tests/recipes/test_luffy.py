from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import recipes
from tests.recipe_cases import assert_same, case, step, table

MASK = [[1, 1, 0], [1, 0, 0]]
FIELDS = {
    "teacher": torch.tensor([[1, 1, 1], [0, 0, 0]], dtype=torch.bool),
    "rewards": table([1.0, 0.0]),
    "old_logp": table([[0.05, 0.9, 1.0], [0.5, 1.0, 1.0]]).log(),
}
ADVANTAGES = [[0.75, 0.75, 0.0], [-0.25, 0.0, 0.0]]


def test_mixed_batch():
    """(−.75·(1/3 + .9) + .25)/3, and the shaped slopes."""
    got = step(recipes.get("luffy", entropy_coef=0.0), case(MASK, **FIELDS), advantages=ADVANTAGES)
    assert got.loss == pytest.approx(-0.225)
    slopes = [-0.75 * 0.2222222 / 3, -0.75 * 0.09 / 3, 0, 0.25 / 3, 0, 0]
    assert got.gradient.flatten().tolist() == pytest.approx(slopes, abs=1e-7)


def test_teacher_counts_in_the_baseline():
    """Six wrong of one's own and a right teacher: .875 against −.125, not divided by a std."""
    rollout = case(
        [[1]] * 8,
        teacher=torch.arange(8)[:, None] == 0,
        rewards=table([1.0] + [0.0] * 7),
    )
    advantages = recipes.get("luffy").targets(rollout).advantages[:, 0]
    assert advantages.tolist() == [0.875] + [-0.125] * 7


def test_without_a_teacher_it_is_grpo_without_std():
    nobody = torch.zeros(6, 4, dtype=torch.bool)
    assert_same(
        recipes.get("luffy", entropy_coef=0.0),
        recipes.get("dr_grpo", aggregation="token-mean"),
        teacher=nobody,
    )


def test_released_script():
    """Nowhere clipped, and the sum over the longest length: far tokens keep their gradient."""
    script = recipes.get(
        "luffy", clip_low=1.0, clip_high=math.inf, aggregation="seq-mean-token-sum-norm"
    )
    rollout = case([[1, 1]], teacher=torch.zeros(1, 2, dtype=torch.bool), max_length=4)
    logp = [[2.0, -5.0]]
    got = step(script, rollout, logp, advantages=[[1.0, -1.0]], entropy=[[0.0, 0.0]])
    assert got.gradient[0].tolist() == pytest.approx([-math.exp(3) / 4, math.exp(-4) / 4])
    paper = step(recipes.get("luffy"), rollout, logp, advantages=[[1.0, -1.0]])
    assert paper.gradient[0].tolist() == [0, 0]


def test_variants():
    rollout = case(MASK, **FIELDS, teacher_logp=table([[0.5, 0.9, 1.0], [1, 1, 1]]).log())
    ratio = step(
        recipes.get("luffy", teacher_probabilities=True, entropy_coef=0.0),
        rollout,
        advantages=ADVANTAGES,
    )
    assert ratio.gradient[0, 0].item() == pytest.approx(-0.75 * 0.05 / (0.5 + 1e-6) / 3)
    bare = step(recipes.get("luffy", gamma=None), rollout, advantages=ADVANTAGES)
    assert bare.gradient[0, 1].item() == pytest.approx(-0.75 * 0.9 / 3)
    with pytest.raises(ValueError, match=r"recipe luffy needs Rollout\.teacher_logp"):
        step(recipes.get("luffy", teacher_probabilities=True), case(MASK, **FIELDS))


def test_defaults():
    recipe = recipes.get("luffy")
    assert (recipe.gamma, recipe.entropy_coef, recipe.clip_high) == (0.1, 0.001, 0.2)
    assert (recipe.sampling.group_size, recipe.sampling.teacher_traces) == (8, 1)
    with pytest.raises(ValueError, match="gamma: expected a number > 0"):
        recipes.get("luffy", gamma=0.0)
