"""The dtype of the rewards is the checker's business: no recipe refuses or suffers from one."""

from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from tests.recipe_runs import loss, make_logits, make_rollout, make_values, prepare

FLOATS = [torch.float16, torch.bfloat16, torch.float64]


def _rollout(dtype):
    """The policy's numbers in float32; rewards of which a half keeps the exact value."""
    rewards = torch.tensor([1.0, 0.125, 0.25, 0.875, 0.75, 0.5], dtype=dtype)
    return make_rollout(torch.float32, rewards=rewards)


def _run(name, dtype):
    recipe, logits = recipes.get(name), make_logits(torch.float32)
    prepared = prepare(recipe, logits, _rollout(dtype))
    total = loss(recipe, logits, prepared, make_values(torch.float32))
    return prepared.targets.advantages, total


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_rewards_of_any_dtype_teach_the_same(name, dtype):
    """Catches a refusal, and a group's mean taken in half precision, wrong from the third digit."""
    expected_advantages, expected = _run(name, torch.float32)
    advantages, total = _run(name, dtype)
    assert advantages.dtype in (torch.float32, dtype)
    assert advantages.dtype.itemsize >= 4
    torch.testing.assert_close(advantages.float(), expected_advantages, rtol=1e-5, atol=1e-6)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        ("opo", {"scope": "batch"}),
        ("reinforce_pp", {"baseline": "group"}),
        ("prorl", {"version": "v2", "cosine_coef": 0.5}),
        ("grpo", {"singleton": "reward"}),
    ],
    ids=str,
)
def test_variants_do_not_round_to_half_either(options):
    name, arguments = options
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        recipe = recipes.get(name, **arguments)
        results.append(
            prepare(recipe, make_logits(torch.float32), _rollout(dtype)).targets.advantages
        )
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
