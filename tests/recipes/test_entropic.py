from __future__ import annotations

import math

import pytest

from entropy_ext import recipes
from tests.recipe_cases import assert_same, case, step, table

LOGP = [[math.log(0.99), math.log(0.5), math.log(0.97)]]
ADVANTAGES = [[1.0, 1.0, -1.0]]
ON_POLICY = {"old_logp": table(LOGP)}


def _step(recipe, entropy=0.3, logp=None):
    return step(
        recipe,
        case([[1, 1, 1]], **ON_POLICY),
        logp,
        entropy=[[entropy] * 3],
        advantages=ADVANTAGES,
    )


@pytest.mark.parametrize(
    ("denominator", "loss", "scale"),
    [("high", -0.5333, 1.5), ("all", -1 / 3 - 0.2 * 2 / 3, 1.0)],
)
def test_case(denominator, loss, scale):
    """H .3 above the target .1: α = .2 on the first and third token.

    Catches the wrong sign of the error, and the released denominator (2 tokens) taken for the
    paper's (3).
    """
    got = _step(recipes.get("entropic", denominator=denominator))
    assert got.loss == pytest.approx(loss, abs=5e-5)
    alpha = 0.2 * scale
    slopes = [-(1 + alpha) / 3, -1 / 3, (1 - alpha) / 3]
    assert got.gradient[0].tolist() == pytest.approx(slopes)


def test_low_entropy_is_raised():
    """Below the target the confident right token is damped, the confident wrong one amplified."""
    got = _step(recipes.get("entropic", denominator="all"), entropy=0.0)
    assert got.gradient[0].tolist() == pytest.approx([-0.9 / 3, -1 / 3, 1.1 / 3])


def test_integral_accumulates_over_optimizer_steps():
    recipe = recipes.get("entropic", denominator="all", kp=0.0, ki=1.0)
    alphas = [_step(recipe, h).plan.coefficients["confident"].item() for h in (0.3, 0.05, 0.1)]
    assert alphas == pytest.approx([0.0, 0.2, 0.15])


def test_clipped_tokens_still_feel_the_pull():
    """The third token's policy loss is held by the dual clip; its pull is not."""
    got = _step(recipes.get("entropic", denominator="all"), logp=[[-0.9, -0.7, -0.001]])
    free = _step(
        recipes.get("entropic", denominator="all", kp=0.0, ki=0.0), logp=[[-0.9, -0.7, -0.001]]
    )
    ratio = math.exp(-0.001 - LOGP[0][2])
    assert (got.gradient - free.gradient)[0].tolist() == pytest.approx([0, 0, -0.2 * ratio / 3])


def test_without_control_it_is_grpo_with_a_dual_clip():
    off = recipes.get("entropic", kp=0.0, ki=0.0)
    assert_same(off, recipes.get("grpo", dual_clip=3.0, aggregation="token-mean"))


def test_no_confident_token_and_an_unknown_entropy():
    recipe = recipes.get("entropic", confident=0.999)
    assert _step(recipe).gradient[0].tolist() == pytest.approx([-1 / 3, -1 / 3, 1 / 3])
    recipe = recipes.get("entropic")
    assert _step(recipe, math.nan).gradient[0].tolist() == pytest.approx([-1 / 3, -1 / 3, 1 / 3])
    assert _step(recipe).loss == pytest.approx(-0.5333, abs=5e-5)


def test_state_survives():
    first, second = recipes.get("entropic", ki=0.5), recipes.get("entropic", ki=0.5)
    for _ in range(3):
        _step(first)
    second.load_state_dict(first.state_dict())
    assert _step(second).loss == _step(first).loss != _step(recipes.get("entropic", ki=0.5)).loss


def test_defaults_are_the_released_configuration_s():
    recipe = recipes.get("entropic")
    assert (recipe.controller.target, recipe.controller.kp, recipe.controller.ki) == (0.1, 1, 0.01)
    assert (recipe.confident, recipe.denominator, recipe.dual_clip) == (0.95, "high", 3.0)
    assert (recipe.minibatches, recipe.epochs, recipe.sampling.temperature) == (1, 1, 0.6)
    assert not recipe.controller.anti_windup
    with pytest.raises(ValueError, match="denominator: expected one of high, all"):
        recipes.get("entropic", denominator="tokens")
