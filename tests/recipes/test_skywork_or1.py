from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from tests.recipe_runs import loss, make_logits, make_rollout, prepare

MEASURED = [0.15, 0.15, 0.25, 0.20, 0.10, 0.10]


def _weights(recipe, measured=MEASURED, **fields):
    """The bonus's weight, in units of 1e-4, at steps where −old_logp averages to `measured`."""
    used = []
    # Two tokens, whose mean is exactly their value: 0.20 then meets the target.
    mask = torch.arange(4) < torch.tensor([1, 1, 0, 0, 0, 0])[:, None]
    for value in measured:
        rollout = make_rollout(mask=mask)
        old = torch.where(mask, torch.full((6, 4), -value, dtype=torch.float64), torch.nan)
        rollout = rollout.replace(old_logp=old, **{k: v(rollout) for k, v in fields.items()})
        plan = recipe.prepare(None, rollout, recipe.targets(rollout))
        used.append(plan.coefficients["entropy"].item() * 1e4)
    return used


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ("lagged_strict", [0, 1, 2, 0, 0, 1]),
        ("current_le", [0, 1, 0, 1, 0, 1]),
        ("lagged_le", [0, 1, 2, 0, 2, 3]),
    ],
)
def test_weight_of_the_bonus_by_hand(gate, expected):
    assert _weights(recipes.get("skywork_or1", gate=gate)) == pytest.approx(expected, abs=1e-9)


def test_defaults_are_the_released_scripts():
    recipe = recipes.get("skywork_or1")
    assert (recipe.clip_low, recipe.clip_high, recipe.dual_clip) == (0.2, 0.2, None)
    assert (recipe.minibatches, recipe.aggregation) == (1, "token-mean")
    assert recipe.controller.gate == "lagged_strict"
    assert (recipe.controller.target, recipe.controller.delta) == (0.2, 1e-4)
    assert (recipe.controller.minimum, recipe.controller.maximum) == (0.0, 0.005)
    assert recipe.sampling.group_size == 16
    assert recipe.sampling.refill == 0


def test_the_signal_can_be_the_true_entropy():
    """Surprisal far above the target, entropy below: only the second opens the bonus."""
    recipe = recipes.get("skywork_or1", signal="entropy")
    assert recipe.needs == {"old_entropy"}
    low = {"old_entropy": lambda r: torch.where(r.mask, 0.1, torch.nan).double()}
    assert _weights(recipe, [9.0, 9.0], **low) == pytest.approx([0, 1])
    assert _weights(recipes.get("skywork_or1"), [9.0, 9.0]) == [0, 0]


def test_the_bonus_enters_the_loss():
    """With all rewards equal the loss is −α times the mean entropy."""
    recipe, logits = recipes.get("skywork_or1", delta=0.01, target=9.0, maximum=1.0), make_logits()
    rollout = make_rollout(rewards=torch.ones(6, dtype=torch.float64))
    first, second = (loss(recipe, logits, prepare(recipe, logits, rollout)) for _ in range(2))
    p = logits.softmax(-1)
    mean_entropy = -(p * p.log()).sum(-1)[rollout.mask].mean()
    assert first == 0
    assert second.item() == pytest.approx(-0.01 * mean_entropy.item())


def test_an_empty_mini_batch_does_not_move_the_controller():
    recipe = recipes.get("skywork_or1")
    _weights(recipe, [0.1, 0.1])
    before = recipe.state_dict()
    nothing = make_rollout(mask=torch.zeros(6, 4, dtype=torch.bool))
    recipe.prepare(None, nothing, recipe.targets(nothing))
    assert recipe.state_dict() == before


def test_groups_of_equal_rewards_are_rejected():
    rollout = make_rollout(
        prompt=torch.tensor([0, 0, 1, 1, 2, 3]),
        rewards=torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0]),
    )
    kept = recipes.get("skywork_or1").keep(rollout)
    assert kept.tolist() == [False, False, True, True, False, False]


def test_without_steps_of_the_weight_it_is_grpo_over_tokens():
    recipe, logits, rollout = recipes.get("skywork_or1", delta=0.0), make_logits(), make_rollout()
    parent = recipes.get("grpo", aggregation="token-mean")
    for _ in range(3):
        ours, theirs = (loss(r, logits, prepare(r, logits, rollout)) for r in (recipe, parent))
        assert ours.item() == theirs.item()


def test_an_impossible_token_does_not_stop_the_controller():
    """Its −old_logp is infinite, and with it the mean: it is left out of the measurement."""
    recipe = recipes.get("skywork_or1")
    rollout = make_rollout()
    old = torch.full((6, 4), -0.1, dtype=torch.float64)
    old[0, 0] = -torch.inf
    for _ in range(2):
        plan = recipe.prepare(None, rollout.replace(old_logp=old), recipe.targets(rollout))
    assert plan.coefficients["entropy"].item() == pytest.approx(1e-4)
