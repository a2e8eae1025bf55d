from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from tests.recipe_cases import assert_same, case, step

ADVANTAGES = [[1.0, -1.0]]


def _weight(recipe, progress=0.0, entropy=1.0):
    got = step(
        recipe,
        case([[1, 1]], progress=progress),
        entropy=[[entropy, entropy]],
        advantages=ADVANTAGES,
    )
    assert got.plan.weights[0, 1] == 1
    return got.plan.weights[0, 0].item()


def test_case():
    """λ = .3 on A = [1, −1]: (−.3 + 1)/2. Catches a denominator that shrinks with λ."""
    recipe = recipes.get("positive_reweight", initial=0.3)
    got = step(recipe, case([[1, 1]]), advantages=ADVANTAGES)
    assert got.loss == pytest.approx(0.35)
    assert got.gradient[0].tolist() == pytest.approx([-0.15, 0.5])


def test_entropy_schedule_uses_the_weight_before_the_measurement():
    recipe = recipes.get("positive_reweight", minibatches=1)
    used = [_weight(recipe, entropy=h) for h in (0.5, 0.3, 0.1, 0.1)]
    assert used == pytest.approx([0.0, 0.05, 0.10, 0.05])


def test_delta_is_per_training_step():
    """Four optimizer steps of one training step move the weight by delta together."""
    recipe = recipes.get("positive_reweight")
    used = [_weight(recipe, entropy=0.5) for _ in range(9)]
    assert used[4] == pytest.approx(0.05)
    assert used[8] == pytest.approx(0.10)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "stage"}, [0.0, 0.0, 0.5, 1.0]),
        ({"schedule": "epoch", "training_epochs": 3}, [0.0, 0.5, 1.0, 1.0]),
        ({"schedule": "epoch", "training_epochs": 1}, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_of_progress(options, expected):
    recipe = recipes.get("positive_reweight", **options)
    assert [_weight(recipe, p) for p in (0.0, 0.5, 0.75, 1.0)] == pytest.approx(expected)
    assert _weight(recipes.get("positive_reweight", schedule="stage"), 0.6) == (0.6 - 0.5) / 0.5


def test_full_weight_is_grpo():
    whole = recipes.get("positive_reweight", initial=1.0, delta=0.0)
    assert_same(whole, recipes.get("grpo", aggregation="token-mean"))


def test_all_positive_without_weight_has_no_gradient():
    got = step(recipes.get("positive_reweight"), case([[1, 1]]), advantages=[[1.0, 2.0]])
    assert got.loss == 0
    assert torch.equal(got.gradient, torch.zeros(1, 2, dtype=torch.float64))


def test_state_survives_and_wrong_options_are_named():
    first, second = recipes.get("positive_reweight"), recipes.get("positive_reweight")
    for _ in range(3):
        _weight(first)
    second.load_state_dict(first.state_dict())
    assert _weight(second) == _weight(first) > 0
    with pytest.raises(ValueError, match="schedule: expected one of entropy, stage, epoch"):
        recipes.get("positive_reweight", schedule="progressive")
