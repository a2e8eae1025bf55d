from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import TokenStats, recipes
from entropy_ext.rl import Rollout
from tests.recipe_cases import assert_same


def _rollout(mask, **changes):
    mask = torch.tensor(mask, dtype=torch.bool)
    fields = {
        "tokens": torch.zeros(mask.shape, dtype=torch.int64),
        "mask": mask,
        "rewards": torch.zeros(len(mask)),
        "prompt": torch.arange(len(mask)),
        "old_logp": torch.zeros(mask.shape),
        "max_length": mask.shape[1],
        "step": 0,
        "progress": 0.0,
        "correct": torch.zeros(len(mask), dtype=torch.bool),
    }
    return Rollout(**(fields | changes))


def test_defaults_are_the_paper_s():
    recipe = recipes.get("dapo")
    assert (recipe.clip_low, recipe.clip_high, recipe.dual_clip) == (0.2, 0.28, None)
    assert recipe.aggregation == "token-mean"
    assert recipe.entropy_coef == 0
    assert recipe.sampling.group_size == 16
    assert recipe.sampling.refill == 9


@pytest.mark.parametrize(("dual_clip", "expected"), [(None, 20.0), (10.0, 10.0)])
def test_loss_uses_its_own_bounds(dual_clip, expected):
    """Catches the base's symmetric bounds and a dual clip switched on unasked."""
    recipe = recipes.get("dapo", dual_clip=dual_clip)
    rollout = _rollout([[1, 1, 1, 1]])
    targets = recipes.Targets(torch.tensor([[1.0, 1.0, -1.0, -1.0]]))
    logp = torch.tensor([[1.5, 1.25, 0.5, 20.0]]).log()
    stats = TokenStats(logp, torch.zeros(1, 4), torch.zeros(1, 4))
    plan = recipe.prepare(None, rollout, targets)
    loss, _ = recipe.token_loss(stats, rollout, targets, plan)
    torch.testing.assert_close(loss, torch.tensor([[-1.28, -1.25, 0.8, expected]]))


def test_tokens_count_alike_whatever_the_length():
    recipe = recipes.get("dapo")
    rollout = _rollout([[1, 1, 1], [1, 0, 0]])
    targets = recipes.Targets(torch.tensor([[1.0, 1.0, 1.0], [-1.0, 0.0, 0.0]]))
    stats = TokenStats(*(torch.zeros(2, 3) for _ in range(3)))
    plan = recipe.prepare(None, rollout, targets)
    loss = plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)
    assert loss.item() == pytest.approx((-3 + 1) / 4)


def test_without_its_four_changes_it_is_grpo():
    """Symmetric clip, no filter, mean per response, no penalty on length."""
    options = {"clip_high": 0.2, "dynamic_sampling": False, "overlong_factor": 0.0}
    recipe = recipes.get("dapo", aggregation="seq-mean-token-mean", **options)
    assert_same(recipe, recipes.get("grpo"))
    rollout = _rollout([[1, 1]] * 2)
    assert recipe.keep(rollout).all()
    assert recipe.shape_rewards(rollout) is rollout.rewards


def test_keep_by_correctness():
    """Groups [1,1], [0,0], [1,0], [1]: the third stays, and so does the one of one."""
    rollout = _rollout(
        [[1]] * 7,
        prompt=torch.tensor([4, 4, 8, 8, 2, 2, 6]),
        correct=torch.tensor([1, 1, 0, 0, 1, 0, 1], dtype=torch.bool),
        # A spread in the shaped reward must not save an all-right group.
        rewards=torch.tensor([1.0, 0.5, 0.0, -0.5, 1.0, 0.0, 1.0]),
    )
    kept = recipes.get("dapo").keep(rollout)
    assert kept.tolist() == [False, False, False, False, True, True, True]
    assert recipes.get("dapo", dynamic_sampling=False).keep(rollout).all()


def test_overlong_penalty_is_added_before_the_advantage():
    """An all-right group in which one answer is too long: only the length separates them."""
    recipe = recipes.get("dapo")
    mask = [[1] * 10, [1] * 9 + [0], [1] * 8 + [0, 0]]
    rollout = _rollout(mask, prompt=torch.zeros(3, dtype=torch.int64), rewards=torch.ones(3))
    shaped = recipe.shape_rewards(rollout)
    assert shaped.tolist() == [0.0, 0.5, 1.0]  # limit 10, buffer 2
    advantages = recipe.targets(rollout.replace(rewards=shaped)).advantages[:, 0]
    torch.testing.assert_close(advantages, torch.tensor([-1.0, 0.0, 1.0]), rtol=0, atol=1e-5)


def test_overlong_options():
    rollout = _rollout([[1] * 10], rewards=torch.ones(1))
    at = {"overlong_limit": 6, "overlong_buffer": 2}
    assert recipes.get("dapo", **at).shape_rewards(rollout).item() == 0.0
    without_floor = recipes.get("dapo", overlong_floor=-math.inf, **at)
    assert without_floor.shape_rewards(rollout).item() == pytest.approx(1 - 3.0)
    half = recipes.get("dapo", overlong_factor=0.5)
    assert half.shape_rewards(rollout).item() == 0.5
    assert recipes.get("dapo", overlong_factor=0).shape_rewards(rollout).item() == 1.0
    with pytest.raises(ValueError, match="buffer: expected a number > 0 and <= 10, got 11"):
        recipes.get("dapo", overlong_buffer=11).shape_rewards(rollout)
