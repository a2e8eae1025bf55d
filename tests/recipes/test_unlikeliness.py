from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from tests.recipe_cases import assert_same, case, step, table

LOGP = [[-0.1], [-0.5], [-0.3], [-0.9]]
GROUP = {
    "rewards": table([1.0, 1.0, 0.0, 1.0]),
    "old_logp": table(LOGP),
    "ref_logp": table(LOGP),
    "correct": torch.tensor([True, True, False, True]),
}
MASK = [[1]] * 4


def test_advantages_of_the_shaped_reward():
    """The whole chain: ranks [3, 1, 2, 0], rewards [.8125, .9375, 0, 1], z-score."""
    got = step(recipes.get("unlikeliness"), case(MASK, **GROUP))
    expected = table([0.2689, 0.5377, -1.4788, 0.6722])
    torch.testing.assert_close(got.targets.advantages[:, 0], expected, rtol=0, atol=5e-5)
    # On policy and at the reference: −A/N, the KL term without gradient.
    torch.testing.assert_close(got.gradient[:, 0], -expected / 4, rtol=0, atol=2e-5)


def test_reduces_to_grpo():
    plain = {"kl_coef": 0.0, "filter_groups": False}
    assert_same(
        recipes.get("unlikeliness", beta=0.0, **plain),
        recipes.get("grpo", aggregation="token-mean"),
    )


def test_groups_without_a_spread_are_dropped_before_they_can_mislead():
    """Penalties give an all-right group a spread; it must be judged by correctness."""
    right = torch.ones(4, dtype=torch.bool)
    rollout = case(MASK, **(GROUP | {"correct": right, "rewards": right.double()}))
    filtering, keeping = (
        recipes.get("unlikeliness"),
        recipes.get("unlikeliness", filter_groups=False),
    )
    shaped = rollout.replace(rewards=filtering.shape_rewards(rollout))
    assert not filtering.keep(shaped).any()
    assert keeping.keep(shaped).all()
    advantages = keeping.targets(shaped).advantages[:, 0]
    assert advantages[0] < 0 < advantages[3]
    assert filtering.keep(case(MASK, **GROUP)).all()


def test_divergence_from_the_reference_is_penalised():
    """Coefficient 0.1, k3: value 0.1·(e⁻ᵈ − 1 + d)/N at d = 1 on each of 4 tokens."""
    away = GROUP | {"ref_logp": table(LOGP) - 1}
    near, far = (step(recipes.get("unlikeliness"), case(MASK, **g)) for g in (GROUP, away))
    assert far.loss - near.loss == pytest.approx(0.1 * 0.36787944)
    slope = 0.1 * (1 - 0.36787944) / 4
    torch.testing.assert_close(far.gradient - near.gradient, torch.full((4, 1), slope).double())
    with pytest.raises(ValueError, match=r"recipe unlikeliness needs Rollout\.ref_logp"):
        step(recipes.get("unlikeliness"), case(MASK, **(GROUP | {"ref_logp": None})))


def test_defaults_are_the_released_script_s():
    recipe = recipes.get("unlikeliness")
    assert (recipe.beta, recipe.form, recipe.kl_coef, recipe.kl_estimator) == (
        0.25,
        "code",
        0.1,
        "k3",
    )
    assert (recipe.epochs, recipe.minibatches, recipe.sampling.group_size) == (2, 1, 32)
