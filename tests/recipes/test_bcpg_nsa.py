from __future__ import annotations

import pytest
import torch

from entropy_ext import TokenStats, recipes
from entropy_ext.rl import Rollout


def _example(**changes):
    """A right response of two tokens and a wrong one of three, to one prompt."""
    f64 = torch.float64
    fields = {
        "tokens": torch.zeros(2, 3, dtype=torch.int64),
        "mask": torch.tensor([[True, True, False], [True, True, True]]),
        "rewards": torch.tensor([1.0, 0.0], dtype=f64),
        "correct": torch.tensor([True, False]),
        "prompt": torch.zeros(2, dtype=torch.int64),
        "old_logp": torch.zeros(2, 3, dtype=f64),
        "ref_logp": torch.tensor([[-1.5, -1.0, torch.nan], [-1.0, -1.0, -1.0]], dtype=f64),
        # Correct steps of right responses are not to be touched.
        "step_correct": torch.tensor([[True, True, True], [True, False, False]]),
        "max_length": 3,
        "step": 0,
        "progress": 0.0,
    }
    return Rollout(**(fields | changes))


LOGP = torch.tensor([[-1.0, -1.0, torch.nan], [-0.5, -1.0, -2.0]], dtype=torch.float64)


def _loss(recipe, rollout, logp):
    targets = recipe.targets(rollout)
    plan = recipe.prepare(None, rollout, targets)
    stats = TokenStats(logp, torch.zeros_like(logp), torch.zeros_like(logp))
    return plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)


@pytest.mark.parametrize(
    ("options", "objective"),
    [
        ({"beta": 1.0, "tau": 0.0}, 0.0416667),
        ({"beta": 0.5, "tau": 0.0}, 0.0208333),
        ({"beta": -0.5, "tau": 0.0}, -0.0208333),
        ({"tau": 0.1}, 0.015625),
        ({}, 0.0207813),
    ],
)
def test_objective_by_hand(options, objective):
    """From rewards to the loss; catches β on right responses and a std in the advantage."""
    loss = _loss(recipes.get("bcpg_nsa", **options), _example(), LOGP)
    assert loss.item() == pytest.approx(-objective, abs=1e-7)


def test_gradient_by_hand():
    logp = LOGP.clone().requires_grad_()
    _loss(recipes.get("bcpg_nsa", tau=0.1), _example(), logp).backward()
    expected = torch.tensor([[0.1125, 0.1125, 0], [-1 / 30, -0.075, -0.075]], dtype=torch.float64)
    torch.testing.assert_close(logp.grad, -expected, rtol=0, atol=1e-12)


def test_no_correct_step_is_plain_bcpg():
    none = _example(step_correct=torch.zeros(2, 3, dtype=torch.bool))
    softened = _loss(recipes.get("bcpg_nsa", beta=-1.0), none, LOGP)
    plain = _loss(recipes.get("bcpg_nsa", beta=1.0), _example(), LOGP)
    assert softened.item() == plain.item()


def test_equal_rewards_leave_only_the_pull_to_the_reference():
    equal = _example(rewards=torch.ones(2, dtype=torch.float64))
    # d = 0.5 and −0.5, lengths 2 and 3.
    expected = (0.1 / 2 * 0.25 / 2 + 0.1 / 2 * 0.25 / 3) / 2
    loss = _loss(recipes.get("bcpg_nsa", tau=0.1), equal, LOGP)
    assert loss.item() == pytest.approx(expected)
    assert _loss(recipes.get("bcpg_nsa", tau=0.0), equal, LOGP).item() == 0


def test_it_learns_from_stored_groups_with_right_and_wrong():
    recipe = recipes.get("bcpg_nsa")
    assert recipe.sampling.offline
    assert (recipe.sampling.group_size, recipe.sampling.temperature) == (32, 0.7)
    assert recipe.whole_sequences
    assert recipe.keep(_example()).tolist() == [True, True]
    assert recipe.keep(_example(correct=torch.tensor([True, True]))).tolist() == [False, False]
    assert recipe.keep(_example(prompt=torch.arange(2))).tolist() == [False, False]


def test_arguments_without_a_meaning_are_refused():
    with pytest.raises(TypeError, match="recipe bcpg_nsa has no clip_high"):
        recipes.get("bcpg_nsa", clip_high=0.3)
    with pytest.raises(ValueError, match="tau: expected a number >= 0"):
        recipes.get("bcpg_nsa", tau=-1.0)
