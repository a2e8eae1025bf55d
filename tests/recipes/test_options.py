"""Every option of every recipe is checked where the recipe is made, by its own name."""

from __future__ import annotations

import inspect
import math
import re

import pytest

from entropy_ext import recipes
from entropy_ext.recipes import Recipe, Sampling

RECIPES = recipes.RECIPES | recipes.PARTS


def _options(recipe):
    """name → annotation, of all the constructors that an option may reach."""
    found = {}
    for cls in recipe.__mro__:
        if issubclass(cls, Recipe) and "__init__" in vars(cls):
            for parameter in inspect.signature(cls.__init__).parameters.values():
                if parameter.kind is parameter.KEYWORD_ONLY:
                    found.setdefault(parameter.name, parameter.annotation)
    return found


def _wrong(annotation):
    """Values that no option so annotated can have."""
    if re.search(r"\bfloat\b", annotation):
        return [math.nan, "x"]
    if re.search(r"\bint\b", annotation):
        return [math.nan, "x", 1.5]
    return ["x", 3]


@pytest.mark.parametrize("name", RECIPES)
def test_wrong_options_are_named_by_the_constructor(name):
    """Catches an option that is only looked at in the middle of a training step, or never."""
    options = _options(RECIPES[name])
    assert options.keys() >= inspect.signature(Recipe).parameters.keys()
    for option, annotation in options.items():
        for value in _wrong(annotation):
            with pytest.raises((ValueError, TypeError), match=rf"\b{option}\b"):
                RECIPES[name](**{option: value})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grpo", {"entropy_coef": math.inf}),
        ("grpo", {"sampling": 3}),
        ("grpo", {"sampling": {"group_size": 8}}),
        ("grpo", {"eps": 0}),
        ("grpo", {"eps": -1}),
        ("grpo", {"kl_max": -1}),
        ("grpo", {"minibatches": True}),
        ("clip_cov", {"bounds": (5, 1)}),
        ("clip_cov", {"bounds": (1, 1)}),
        ("clip_cov", {"bounds": (1, math.nan)}),
        ("clip_cov", {"bounds": (1, 2, 3)}),
        ("entropy_neutral", {"target": -math.inf}),
        ("vapo", {"alpha": 0}),
        ("vapo", {"critic_decay": 1.1}),
        ("dapo", {"overlong_floor": 0.5}),
        ("dapo", {"overlong_limit": 10, "overlong_buffer": 11}),
        ("skywork_or1", {"entropy_coef": 0.006}),
        ("deepseek_v32", {"domain_kl": {0: math.nan}}),
        ("unlikeliness", {"beta": 1.5}),
        ("sent", {"cov_fraction": 1.5}),
    ],
)
def test_options_out_of_bounds_are_refused(name, options):
    """Catches a bound that get's docstring promises and nobody checks."""
    with pytest.raises((ValueError, TypeError), match=list(options)[-1]):
        recipes.get(name, **options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"group_size": 0},
        {"group_size": 1.5},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"teacher_traces": -1},
        {"refill": math.nan},
        {"offline": "false"},
    ],
)
def test_impossible_sampling_is_named(wrong):
    """Catches a sampler that gets, hours in, a temperature or a group size it cannot have."""
    (name,) = wrong
    with pytest.raises((ValueError, TypeError), match=name):
        Sampling(**wrong)


def test_bounds_that_papers_open_stay_open():
    """Catches checks that went too far: LUFFY's script clips nowhere, DAPO's has no floor."""
    assert recipes.get("luffy", clip_low=1.0, clip_high=math.inf).clip_high == math.inf
    assert recipes.get("dapo", overlong_floor=-math.inf).overlong_floor == -math.inf
    assert recipes.get("clip_cov", bounds=[0.5, math.inf]).bounds == (0.5, math.inf)
    assert recipes.get("grpo", entropy_coef=-0.01).entropy_coef == -0.01


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_an_option_that_a_recipe_lacks_is_told_those_it_has(name):
    """Catches Python's own message, which lists nothing, and a refusal of what a recipe takes."""
    with pytest.raises(TypeError, match=f"options: {name} has .*, got 'no_such'"):
        recipes.get(name, no_such=1)
    for option in _options(recipes.RECIPES[name]):
        with pytest.raises(TypeError, match=rf"has (.*, )?{option},"):
            recipes.get(name, no_such=1)
