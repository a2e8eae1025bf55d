from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.recipes import PromptStats
from tests.recipe_cases import assert_same, case, step, table

LOGP = [[-0.1, -2.0, -0.5, -1.0, -0.05]]
ENTROPY = [[0.1, 0.2, 0.3, 0.9, 0.05]]
ADVANTAGES = [[1.0, 1.0, -1.0, -1.0, 1.0]]
OLD = {"old_logp": table([[-0.2, -1.8, -0.5, -1.0, -0.1]])}
NO_KL = {"kl_coef": 0.0}


def test_case():
    """Token 4 held twice, token 1 half, the rest not: mean −.1910."""
    got = step(
        recipes.get("sent", **NO_KL),
        case([[1] * 5], **OLD),
        LOGP,
        entropy=ENTROPY,
        advantages=ADVANTAGES,
    )
    assert got.plan.tokens["hold"].tolist() == [[0, 0.5, 0, 0, 2.0]]
    assert got.loss == pytest.approx(-0.1910, abs=5e-5)
    assert got.gradient[0, 1].item() == pytest.approx((-math.exp(-0.2) - 0.05) / 5)
    assert got.gradient[0, 3].item() == pytest.approx(1 / 5)


def test_without_the_hold_it_is_unclipped_grpo():
    unclipped = {"clip_low": 1.0, "clip_high": math.inf, "aggregation": "token-mean"}
    assert_same(recipes.get("sent", hold_coef=0.0, **NO_KL), recipes.get("grpo", **unclipped))


def test_reference_is_penalised():
    rollout = case([[1] * 5], **OLD, ref_logp=table(LOGP) - 1)
    got, plain = (
        step(recipes.get("sent", kl_coef=c), rollout, LOGP, entropy=ENTROPY, advantages=ADVANTAGES)
        for c in (0.001, 0.0)
    )
    assert got.loss - plain.loss == pytest.approx(0.001 * 0.36787944)
    with pytest.raises(ValueError, match=r"recipe sent needs Rollout\.ref_logp"):
        step(recipes.get("sent"), case([[1] * 5], **OLD))


def test_curriculum():
    """Low semantic entropy first; the field must be there, unless the curriculum is off."""
    zeros = torch.zeros(4, dtype=torch.int64)
    known = PromptStats(zeros, zeros, semantic_entropy=torch.tensor([0.1, 1.2, 0.0, 0.9]))
    recipe = recipes.get("sent")
    assert recipe.select_prompts(known, 0.2).tolist() == [1, 0, 1, 0]
    assert recipe.select_prompts(known, 0.8).tolist() == [1, 1, 0, 1]
    unknown = PromptStats(zeros, zeros)
    with pytest.raises(ValueError, match=r"recipe sent needs PromptStats\.semantic_entropy"):
        recipe.select_prompts(unknown, 0.2)
    assert recipes.get("sent", stages=1).select_prompts(unknown, 0.2).tolist() == [1] * 4


def test_defaults_are_the_released_configuration_s():
    recipe = recipes.get("sent")
    assert (recipe.low_fraction, recipe.cov_fraction) == (0.8, 2e-4)
    assert (recipe.hold_coef, recipe.hold_rest, recipe.kl_coef) == (0.1, 0.0, 0.001)
    assert (recipe.stages, recipe.minibatches, recipe.sampling.group_size) == (2, 2, 8)
    with pytest.raises(TypeError, match="recipe sent has no clip_high"):
        recipes.get("sent", clip_high=0.3)
