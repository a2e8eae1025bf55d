from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from tests.recipe_cases import case, step, table

MASK = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
REWARDS = table([1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [(None, 0.0375), ("seq-mean-token-mean", 0.0), ("token-mean", 0.10714)],
)
def test_case(aggregation, expected):
    """Lengths 2, 4, 4, 4 under a limit of 10: catches the padded length taken for the limit."""
    recipe = recipes.get("dr_grpo", aggregation=aggregation)
    got = step(recipe, case(MASK, rewards=REWARDS, max_length=10))
    assert got.targets.advantages[:, 0].tolist() == [0.75, -0.25, -0.25, -0.25]
    assert got.loss == pytest.approx(expected, abs=5e-6)
    if aggregation is None:
        assert got.gradient[0].tolist() == pytest.approx([-0.01875, -0.01875, 0, 0])
        assert got.gradient[1].tolist() == pytest.approx([0.00625] * 4)


def test_full_length_responses_without_the_std_are_grpo():
    """Where every response has the limit's length, only the division by the std is left."""
    mask = [[1, 1], [1, 1], [1, 1]]
    rollout = case(mask, rewards=table([2.0, 0.0, 0.0]), max_length=2)
    one, other = (step(recipes.get(name), rollout) for name in ("dr_grpo", "grpo"))
    std = (4 / 3) ** 0.5
    torch.testing.assert_close(one.gradient, other.gradient * (std + 1e-6))


def test_long_wrong_answers_are_not_excused():
    """GRPO pushes each token of a long wrong answer less; Dr. GRPO pushes all alike."""
    rollout = case(MASK, rewards=REWARDS.flip(0), max_length=10)
    dr, grpo = (step(recipes.get(name), rollout) for name in ("dr_grpo", "grpo"))
    assert dr.gradient[0, 0].item() == pytest.approx(dr.gradient[1, 0].item())
    assert grpo.gradient[0, 0].item() == pytest.approx(2 * grpo.gradient[1, 0].item())


def test_clip_wide_open_is_reinforce():
    """ε → ∞: gradient −A·ρ/(C·N) however far the ratio."""
    recipe = recipes.get("dr_grpo", clip_low=1.0, clip_high=float("inf"))
    rollout = case(MASK, rewards=REWARDS, max_length=10)
    got = step(recipe, rollout, [[1.0] * 4, [-4.0] * 4, [-1.0] * 4, [-1.0] * 4])
    assert got.gradient[0].tolist() == pytest.approx([-0.75 * 2.718281828**2 / 40] * 2 + [0, 0])
    assert got.gradient[1].tolist() == pytest.approx([0.25 * 2.718281828**-3 / 40] * 4)
