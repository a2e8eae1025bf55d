"""A harness that hands `prepare` too little is told what, and by which recipe."""

from __future__ import annotations

import re

import pytest
import torch

from entropy_ext import recipes, token_stats
from tests.recipe_runs import make_logits, make_rollout, prepare

NEEDING = [
    "clip_cov",
    "kl_cov",
    "high_entropy_tokens",
    "steer",
    "positive_reweight",
    "entropic",
    "sent",
    "starter",
    "advanced",
    "entropy_neutral",
]
EXTRAS = [
    recipes.get("entropy_neutral"),
    recipes.get("steer", form="exact"),
    # The options of the one part must not undo what the other needs.
    recipes.compose("entropy_neutral", "steer"),
]


def _prepare(recipe, stats):
    rollout = make_rollout()
    return recipe.prepare(stats, rollout, recipe.targets(rollout))


def _stats(**options):
    rollout = make_rollout()
    return token_stats(make_logits(), rollout.tokens, mask=rollout.mask, **options)


def test_the_list_is_complete():
    wanting = [name for name, cls in recipes.RECIPES.items() if cls.statistics != "micro"]
    assert sorted(wanting) == sorted(NEEDING)


@pytest.mark.parametrize("name", NEEDING)
def test_no_statistics_is_a_named_error(name):
    """Catches a bare AssertionError, which `python -O` turns into an AttributeError on None."""
    with pytest.raises(ValueError, match=f"recipe {name} needs stats of the minibatch, got None"):
        _prepare(recipes.get(name), None)


@pytest.mark.parametrize("name", NEEDING)
def test_statistics_of_other_tokens_are_refused(name):
    """Catches those of one micro-batch, or flattened, which would broadcast or fail far below."""
    stats = _stats(extras=True)
    message = rf"recipe {name} needs stats\.logp of the mask's shape \[6, 4\], got "
    with pytest.raises(ValueError, match=message + r"\[3, 4\]"):
        _prepare(recipes.get(name), type(stats)(*(x if x is None else x[:3] for x in stats)))
    with pytest.raises(ValueError, match=message + r"\[24\]"):
        _prepare(recipes.get(name), type(stats)(*(x if x is None else x.flatten() for x in stats)))
    with pytest.raises(ValueError, match=rf"recipe {name} needs stats\.entropy of the mask's"):
        _prepare(recipes.get(name), stats._replace(entropy=stats.entropy[:1]))


@pytest.mark.parametrize("recipe", EXTRAS, ids=lambda recipe: recipe.name)
def test_statistics_without_extras_are_a_named_error(recipe):
    assert recipe.extras
    message = re.escape(f"recipe {recipe.name} needs stats.collision, which is None")
    with pytest.raises(ValueError, match=message):
        _prepare(recipe, _stats())


def test_a_schedule_without_statistics_needs_none():
    """Catches a check that went too far: λ by stage or epoch looks at no entropy."""
    rollout = make_rollout()
    recipe = recipes.get("positive_reweight", schedule="stage")
    expected = prepare(recipe, make_logits(), rollout).plan.weights
    assert torch.equal(_prepare(recipe, None).weights, expected)


def test_a_refused_call_leaves_the_recipe_as_it_was():
    """Catches a controller or a seed moved by a step that then did not happen."""
    recipe = recipes.get("advanced")
    before = recipe.state_dict()
    with pytest.raises(ValueError, match="needs stats"):
        _prepare(recipe, None)
    assert recipe.state_dict() == before
