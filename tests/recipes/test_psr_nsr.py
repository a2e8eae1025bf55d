from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from tests.recipe_cases import assert_same, case, step

LENGTHS = [[1, 1, 0], [1, 1, 1]]


def _rollout(correct=(True, False)):
    return case(LENGTHS, correct=torch.tensor(correct))


def _kept(recipe, rollout):
    return rollout.rows(recipe.keep(rollout))


def test_one_right_one_wrong():
    """ρ = 1: W (−0.1·2 + 3)/5, NSR 3/3 on the wrong one alone, PSR −2/2 on the right one."""
    weighted, nsr, psr = (recipes.get(n) for n in ("w_reinforce", "nsr", "psr"))
    got = step(weighted, _rollout())
    assert got.loss == pytest.approx(0.56)
    assert got.gradient.flatten().tolist() == pytest.approx([-0.02] * 2 + [0] + [0.2] * 3)
    alone = step(nsr, _kept(nsr, _rollout()))
    assert alone.loss == pytest.approx(1.0)
    assert alone.gradient.tolist() == [pytest.approx([1 / 3] * 3)]
    alone = step(psr, _kept(psr, _rollout()))
    assert alone.loss == pytest.approx(-1.0)
    assert alone.gradient.tolist() == [pytest.approx([-0.5, -0.5, 0.0])]


def test_nsr_is_not_w_reinforce_without_positives():
    """At λ = 0 right answers still fill the mean: 3/5 of the push, not all of it."""
    zero, nsr = recipes.get("w_reinforce", positive_weight=0.0), recipes.get("nsr")
    diluted, full = step(zero, _rollout()), step(nsr, _kept(nsr, _rollout()))
    assert diluted.loss == pytest.approx(0.6)
    torch.testing.assert_close(diluted.gradient[1:], 0.6 * full.gradient)
    assert diluted.gradient[0].abs().max() == 0


def test_rewards_and_groups_are_not_looked_at():
    """Shaped rewards would break the signs, and groups of one sign teach as well."""
    recipe = recipes.get("w_reinforce")
    rollout = _rollout().replace(rewards=torch.tensor([7.0, -3.0]).double())
    assert step(recipe, rollout).loss == pytest.approx(0.56)
    assert step(recipe, _rollout((True, True))).loss == pytest.approx(-0.1)
    assert step(recipe, _rollout((False, False))).loss == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "correct"), [("psr", False), ("nsr", True)])
def test_nothing_to_learn_from(name, correct):
    recipe = recipes.get(name)
    nothing = _kept(recipe, _rollout((correct, correct)))
    assert len(nothing.mask) == 0
    assert step(recipe, nothing).loss == 0


def test_clip_is_ppo_s():
    """Wide bounds are unclipped REINFORCE; the default's are 0.2."""
    narrow, wide = recipes.get("w_reinforce"), recipes.get("w_reinforce", clip_high=9, clip_low=1)
    logp = [[-0.5, -1.0, 0.0], [-2.0, -1.0, -1.0]]
    clipped, free = (step(recipe, _rollout(), logp) for recipe in (narrow, wide))
    assert clipped.gradient[0, 0] == clipped.gradient[1, 0] == 0
    assert free.gradient[0, 0].item() == pytest.approx(-0.02 * 2.718281828**0.5)
    assert free.gradient[1, 0].item() == pytest.approx(0.2 * 2.718281828**-1)


def test_defaults_and_refused_options():
    recipe = recipes.get("w_reinforce")
    assert recipe.positive_weight == 0.1
    assert (recipe.clip_low, recipe.clip_high, recipe.dual_clip) == (0.2, 0.2, None)
    assert recipe.entropy_coef == 0
    assert recipe.sampling.group_size == 8
    assert recipe.minibatches == 4
    with pytest.raises(TypeError, match="recipe nsr has no eps"):
        recipes.get("nsr", eps=1e-4)
    assert_same(recipes.get("psr"), recipes.get("w_reinforce", positive_weight=1.0))
