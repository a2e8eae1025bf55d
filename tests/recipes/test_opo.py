from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.rl.advantages import group_mean, opo
from tests.recipe_runs import make_rollout


def test_is_exactly_on_policy():
    recipe = recipes.get("opo")
    assert (recipe.minibatches, recipe.epochs, recipe.entropy_coef) == (1, 1, 0)
    assert recipe.aggregation == "token-mean"
    assert recipe.singleton == "zero"


@pytest.mark.parametrize("scope", ["group", "batch"])
def test_baseline_s_scope(scope):
    rollout = make_rollout()
    prompt = rollout.prompt if scope == "group" else torch.zeros_like(rollout.prompt)
    expected = opo(rollout.rewards, prompt, rollout.mask)
    got = recipes.get("opo", scope=scope).targets(rollout).advantages
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match="scope: expected one of group, batch, got 'all'"):
        recipes.get("opo", scope="all")


def test_of_equal_lengths_is_grpo_without_the_spread():
    """One token mean over whole groups: the gradient of Dr. GRPO's advantage."""
    rollout = make_rollout(mask=torch.ones(6, 4, dtype=torch.bool))
    advantages = recipes.get("opo").targets(rollout).advantages
    expected = group_mean(rollout.rewards, rollout.prompt, rollout.mask)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)
