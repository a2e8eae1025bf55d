"""What every recipe has from the base: exact on-policy updates, and the divergence penalty."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from entropy_ext import TokenStats, recipes
from tests.recipe_cases import case, step, table

ADVANTAGES = [[1.0, -0.5]]


@pytest.mark.parametrize("clip", [0.0, 0.2, 0.9])
def test_exactly_on_policy_is_reinforce_whatever_the_clip(clip):
    """A = [1, −.5], ρ = 1: loss −.25, gradient −A/N; dual clip and bounds must not act."""
    recipe = recipes.get(
        "grpo", clip_low=clip, clip_high=clip, dual_clip=1.5, aggregation="token-mean"
    )
    got = step(recipe, case([[1, 1]]), advantages=ADVANTAGES)
    assert got.loss == pytest.approx(-0.25)
    assert got.gradient[0].tolist() == pytest.approx([-0.5, 0.25])


def test_a_second_epoch_is_off_policy():
    """After a step along the gradient the ratio has moved, and the loss with it."""
    recipe, rollout = recipes.get("grpo", aggregation="token-mean"), case([[1, 1]])
    first = step(recipe, rollout, advantages=ADVANTAGES)
    moved = (rollout.old_logp - 0.1 * first.gradient).tolist()
    second = step(recipe, rollout, moved, advantages=ADVANTAGES)
    assert first.metrics["kl_old"] == 0
    assert second.metrics["kl_old"] > 0
    assert second.loss < first.loss
    assert not torch.allclose(second.gradient, first.gradient)


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [
        ("k1", 1.0, 1.0),
        ("k2", 0.5, 1.0),
        ("k3", 0.36787944, 0.63212056),
        ("unbiased", 0.36787944, 1),
    ],
)
def test_divergence_joins_unweighted(estimator, value, slope):
    """logp −1, reference −2: coefficient times the estimate, not times the plan's weights."""
    rollout = case([[1, 1]], ref_logp=table([[-2.0, -2.0]]))
    recipe = recipes.get("grpo", kl_coef=0.1, kl_estimator=estimator, aggregation="token-mean")
    got = step(recipe, rollout, advantages=[[0.0, 0.0]])
    assert got.loss == pytest.approx(0.1 * value)
    assert got.gradient[0].tolist() == pytest.approx([0.05 * slope] * 2)
    assert got.metrics["kl_ref"] == pytest.approx(2 * value)
    none = replace(got.plan, weights=torch.zeros(1, 2).double())
    stats = TokenStats(rollout.old_logp, torch.zeros(1, 2), torch.zeros(1, 2))
    weighted, _ = recipe.token_loss(stats, rollout, got.targets, none)
    assert weighted[0].tolist() == pytest.approx([0.1 * value] * 2)


def test_the_reference_is_needed_only_with_a_weight():
    assert recipes.get("grpo").needs == frozenset()
    with pytest.raises(ValueError, match=r"recipe grpo needs Rollout\.ref_logp"):
        step(recipes.get("grpo", kl_coef=0.04), case([[1, 1]]))
    with pytest.raises(ValueError, match="kl_estimator: expected one of k1, k2, k3, unbiased"):
        recipes.get("grpo", kl_estimator="k4")
