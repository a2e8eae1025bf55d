from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import entropy_change, recipes, token_stats
from tests.recipe_cases import assert_same, case, step, table

LOGP = [[math.log(0.9), math.log(0.1), math.log(0.5)]]
ADVANTAGES = [[1.0, 1.0, -1.0]]
ENTROPY = table([[0.5, 2.0, 0.8]])


def _rollout(**changes):
    fields = {"old_logp": table(LOGP), "old_entropy": ENTROPY}
    return case([[1, 1, 1]], **(fields | changes))


@pytest.mark.parametrize(
    ("options", "weights", "loss"),
    [
        ({}, [0.968181, 0.8, 0.957167], -0.270338),
        ({"weight_map": "linear"}, [1.2, 0.8, 1.176016], None),
        ({"lambda_min": 0.7}, None, None),
    ],
)
def test_case(options, weights, loss):
    """|Ω| = .039464, .272327, .053426: the rarest token changes the entropy most."""
    got = step(recipes.get("steer", **options), _rollout(), advantages=ADVANTAGES)
    if weights is None:
        # −ln λ/M_max, the paper's last λ.
        k = -math.log(0.7) / 0.272327
        weights = [math.exp(-k * m) for m in (0.039464, 0.272327, 0.053426)]
    assert got.plan.weights[0].tolist() == pytest.approx(weights, abs=2e-6)
    slopes = [-a * w / 3 for a, w in zip(ADVANTAGES[0], weights, strict=True)]
    assert got.gradient[0].tolist() == pytest.approx(slopes, abs=1e-6)
    if loss is not None:
        assert got.loss == pytest.approx(loss, abs=1e-6)


def test_the_effect_that_is_estimated():
    """z = [1, 0, −1, ½], a = 2, A = 1: raising z_a alone changes the entropy by −S_a = .099659, the
    whole step Δz = A·(e_a − π) by .172299 per unit, which "exact" must see."""
    logits = table([[1.0, 0.0, -1.0, 0.5]]).requires_grad_()
    token = torch.tensor([2])
    stats = token_stats(logits, token, extras=True)
    (slope,) = torch.autograd.grad(stats.entropy.sum(), logits)
    assert (-slope[0]).tolist() == pytest.approx([0.2116, -0.0965, -0.0997, -0.0154], abs=5e-5)
    assert slope[0, 2].item() == pytest.approx(0.099659, abs=5e-7)
    step = (torch.nn.functional.one_hot(token, 4) - logits.softmax(-1)).detach()
    ahead, behind = (token_stats(logits + h * step, token).entropy for h in (1e-6, -1e-6))
    assert ((ahead - behind) / 2e-6).item() == pytest.approx(0.172299, abs=5e-7)
    change = entropy_change(stats, torch.ones(1, dtype=torch.float64))
    assert change.item() == pytest.approx(0.172299, abs=5e-7)


def test_small_effects_are_left_alone():
    """All effects at .005, a quarter of the floor: w = .8^(.25)."""
    entropy = -math.log(0.5) + 0.01
    rollout = _rollout(old_logp=table([[math.log(0.5)] * 3]), old_entropy=table([[entropy] * 3]))
    got = step(recipes.get("steer"), rollout, advantages=ADVANTAGES)
    assert got.plan.weights[0].tolist() == pytest.approx([0.945742] * 3, abs=1e-6)


@pytest.mark.parametrize("options", [{"lambda_min": 1.0}, {"floor": 1e15}])
def test_reduces_to_its_parent(options):
    """λ_min → 1, or a floor nothing reaches: DAPO's clip with a dual clip of 10, token mean."""
    parent = recipes.get("grpo", clip_high=0.28, dual_clip=10.0, aggregation="token-mean")
    assert_same(recipes.get("steer", **options), parent)
    for form in ("own_logit", "exact"):
        assert_same(recipes.get("steer", form=form, **options), parent)


def test_tokens_without_advantage_or_number():
    """A = 0 gives weight 1; a non-finite token 0, and neither disturbs the others' range."""
    got = step(recipes.get("steer"), _rollout(), advantages=[[1.0, 1.0, 0.0]])
    assert got.plan.weights[0, 2] == 1
    impossible = table([[LOGP[0][0], LOGP[0][1], -math.inf]])
    got = step(recipes.get("steer"), _rollout(), impossible.tolist(), advantages=ADVANTAGES)
    assert got.plan.weights[0].tolist() == pytest.approx([0.968181, 0.8, 0.0], abs=2e-6)
    assert got.gradient.isfinite().all()


def test_defaults_are_the_released_script_s():
    recipe = recipes.get("steer")
    assert (recipe.clip_low, recipe.clip_high, recipe.dual_clip) == (0.2, 0.28, 10.0)
    assert (recipe.form, recipe.weight_map, recipe.lambda_min, recipe.floor) == (
        "code",
        "exp",
        0.8,
        0.02,
    )
    assert not recipe.extras
    assert recipes.get("steer", form="exact").extras
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="lambda_min: expected a number > 0 and <= 1"):
            recipes.get("steer", lambda_min=wrong)
    assert recipes.get("steer", weight_map="linear", lambda_min=1.1).lambda_min == 1.1
