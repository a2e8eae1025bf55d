from __future__ import annotations

import math

import pytest

from entropy_ext import recipes
from tests.recipe_cases import case, step, table


def _step(old, sampled, advantage=1.0, **options):
    rollout = case([[1]], old_logp=table([[old]]), rollout_logp=table([[sampled]]))
    return step(recipes.get("minirl", **options), rollout, [[-1.0]], advantages=[[advantage]])


def test_case():
    masked, kept = _step(-1.3, -1.25), _step(-1.1, -1.25)
    assert (masked.loss, masked.gradient.item()) == (0.0, 0.0)
    assert kept.loss == pytest.approx(1.284025)
    assert kept.gradient.item() == pytest.approx(-1.284025)


def test_no_length_normalisation_and_no_std():
    """Sum over the tokens, mean over responses; A = r − mean."""
    mask = [[1, 1, 1], [1, 0, 0]]
    logp = table([[-1.0, -1.0, -1.0], [-1.0, 0.0, 0.0]])
    rollout = case(mask, rewards=table([1.0, 0.0]), rollout_logp=logp)
    got = step(recipes.get("minirl"), rollout)
    assert got.targets.advantages[:, 0].tolist() == [0.5, -0.5]
    assert got.gradient.tolist() == [[-0.25] * 3, [0.25, 0, 0]]


def test_wide_bounds_and_no_cap_are_importance_weighted_reinforce():
    free = {"clip_low": 1.0, "clip_high": math.inf, "max_weight": math.inf}
    assert _step(-9.0, -4.0, **free).gradient.item() == pytest.approx(-math.exp(3))
    assert _step(-9.0, -4.0, -1.0, **free).gradient.item() == pytest.approx(math.exp(3))


def test_defaults():
    recipe = recipes.get("minirl")
    assert (recipe.clip_low, recipe.clip_high, recipe.max_weight) == (0.2, 0.27, 5.0)
    assert recipe.aggregation == "seq-mean-token-sum"
    with pytest.raises(ValueError, match="max_weight: expected a number > 0, got 0"):
        recipes.get("minirl", max_weight=0.0)
