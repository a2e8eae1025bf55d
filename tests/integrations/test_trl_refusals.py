"""What the TRL trainer will not do, said when it is made."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from entropy_ext import recipes
from entropy_ext.integrations.trl import GRPOTrainer, config_arguments, refusals, requirements
from entropy_ext.integrations.trl.installed import (
    FIRST,
    OVERRIDDEN,
    UNTESTED,
    TRLTrainer,
    check_methods,
    check_version,
)
from entropy_ext.recipes import RECIPES, Recipe, Sampling
from tests.integrations.trl_runs import early_words, first_word, settings, train, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")

REFUSED = {
    "vapo": "values",
    "bcpg_nsa": "step_correct",
    "luffy": "teacher",
    "sent": "prompt_stats",
    "advanced": "prompt_stats",
}


def test_refused_are_those_alone() -> None:
    """A recipe that TRL cannot carry must not run without what makes it that recipe."""
    found = {name: refusals(recipes.get(name)) for name in RECIPES}
    assert {name for name, reasons in found.items() if reasons} == set(REFUSED)


@pytest.mark.parametrize(("name", "field"), REFUSED.items())
def test_refusal_names_recipe_and_field(name: str, field: str, tmp_path: Path) -> None:
    """Found out at the first step, it would cost a generation, and the reason would be hidden."""
    with pytest.raises(
        ValueError, match=rf"recipe {name} needs what TRL does not supply: .*{field} \("
    ):
        trainer(GRPOTrainer, tmp_path, ours={"recipe": name, "answers": list})


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("seed_grpo", "answers (give answers=)"),
        ("truncated_is", "rollout_logp (give use_vllm=True or a rollout_func)"),
        (
            recipes.get("deepseek_v32", behaviour="trainer", domain_kl={0: 2.0}),
            "domain (give an integer column domain of the data set)",
        ),
    ],
)
def test_a_field_that_can_be_had_comes_with_how(recipe: Any, setting: str, tmp_path: Path) -> None:
    """Without the way out the error is a riddle."""
    with pytest.raises(ValueError, match=re.escape(setting)):
        trainer(GRPOTrainer, tmp_path, ours={"recipe": recipe})


def test_the_verdict_of_several_rewards_is_not_guessed(tmp_path: Path) -> None:
    """A wrong answer in the right form has a positive sum, and would count as correct."""
    with pytest.raises(ValueError, match=re.escape("correct (give correct= where")):
        trainer(GRPOTrainer, tmp_path, reward=[early_words, first_word], ours={"recipe": "dapo"})
    given = {"recipe": "dapo", "correct": lambda rewards: rewards[:, 1] > 0}
    trainer(GRPOTrainer, tmp_path, reward=[early_words, first_word], ours=given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_type": "dr_grpo"}, "loss_type: set in the GRPOConfig, but recipe grpo"),
        ({"epsilon_high": 0.28, "entropy_coef": 0.1}, "epsilon_high, entropy_coef: set in"),
        ({"beta": 0.04}, "beta: expected 0 or recipe grpo's kl_coef=0.0, got 0.04"),
        (
            {"gradient_accumulation_steps": 4, "steps_per_generation": 2},
            "steps_per_generation: expected a multiple of gradient_accumulation_steps=4, got 2",
        ),
    ],
)
def test_settings_without_effect_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """A clip range in the config that nobody reads looks as if it were used."""
    with pytest.raises(ValueError, match=re.escape(words)):
        trainer(GRPOTrainer, tmp_path, ours={"recipe": "grpo"}, **options)


def test_a_recipe_made_for_another_sampler_is_refused(tmp_path: Path) -> None:
    """DeepSeek-V3.2 trains on the kept sets of a top-p sampler, and must know that it is one."""
    with pytest.raises(ValueError, match=r"was made for .*'top_p': 1.0.* samples with .*0\.9"):
        trainer(GRPOTrainer, tmp_path, ours={"recipe": recipes.get("grpo")}, top_p=0.9)
    cut = recipes.get("grpo", sampling=Sampling(top_p=0.9))
    ours = trainer(GRPOTrainer, tmp_path, ours={"recipe": cut}, top_p=0.9)
    assert ours.learner.recipe.sampling == Sampling(group_size=4, temperature=0.8, top_p=0.9)


def test_arguments_for_recipes_alone_are_refused_without_one(tmp_path: Path) -> None:
    """A verdict that nobody asks for looks as if it decided what is learnt from."""
    for name in ("correct", "answers"):
        with pytest.raises(ValueError, match=f"{name}: expected none without a recipe"):
            trainer(GRPOTrainer, tmp_path, ours={name: list})
    with pytest.raises(TypeError, match="chunked_head: expected True or False, got 'no'"):
        trainer(GRPOTrainer, tmp_path, ours={"chunked_head": "no"})


def test_a_recipe_is_copied(tmp_path: Path) -> None:
    """A second trainer with the same Recipe would go on with the controllers of the first."""
    recipe = recipes.get("entropic")
    before = (str(recipe.state_dict()), recipe.sampling)
    ours = trainer(GRPOTrainer, tmp_path, ours={"recipe": recipe}, max_steps=1)
    train(ours)
    assert str(ours.learner.recipe.state_dict()) != before[0]
    assert (str(recipe.state_dict()), recipe.sampling) == before


def test_groups_too_small_for_the_recipe(tmp_path: Path) -> None:
    """The best of 4 of 4 is the same for all of them: nothing would be learnt, without a word."""
    recipe = recipes.compose("grpo", "pass_at_k", k=4)
    with pytest.raises(ValueError, match="k: expected a number <= 3, got 4"):
        train(trainer(GRPOTrainer, tmp_path, ours={"recipe": recipe}, num_generations=4))


def test_an_unknown_recipe_and_a_missing_config(tmp_path: Path) -> None:
    """The errors of `recipes.get`, not a failure deep in TRL."""
    with pytest.raises(ValueError, match="recipe: expected one of grpo, dapo"):
        trainer(GRPOTrainer, tmp_path, ours={"recipe": "clip_vov"})
    with pytest.raises(TypeError, match="recipe: expected a name or a Recipe, got 3"):
        trainer(GRPOTrainer, tmp_path, ours={"recipe": 3})
    with pytest.raises(ValueError, match="args: expected a GRPOConfig with a recipe, got None"):
        GRPOTrainer("model", early_words, recipe="grpo")


def test_arguments_sample_as_the_paper(tmp_path: Path) -> None:
    """Confusing mini-batches with micro-batches would change the steps per generation."""
    recipe = recipes.get("unlikeliness", minibatches=3, sampling=Sampling(group_size=4, top_k=20))
    given = config_arguments(recipe, gradient_accumulation_steps=2)
    args = settings(tmp_path, **given)
    assert (args.num_generations, args.top_k, args.num_iterations) == (4, 20, 2)
    assert args.steps_per_generation == 6
    assert args.generation_batch_size == 6 * 8


@pytest.mark.parametrize("version", ["1.14.2", "1.17.0", "2.0.0", "0.29.1"])
def test_versions_outside_the_range(version: str) -> None:
    """Private methods of another release may take other arguments and be overridden wrongly."""
    with pytest.raises(ImportError, match=rf"trl>={FIRST},<{UNTESTED}; this is {version}"):
        check_version(version)


@pytest.mark.parametrize("version", ["1.15.0", "1.16.0", "1.16.3", "1.15.0rc1"])
def test_versions_inside_the_range(version: str) -> None:
    """A bound that cuts one release too many."""
    check_version(version)


def test_the_range_is_that_of_the_extra() -> None:
    """pip would install a TRL that the import then refuses."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'"trl>={FIRST},<{UNTESTED}"' in project.read_text()


def test_a_renamed_method_is_named() -> None:
    """An override that nothing calls would train TRL's loss in silence."""
    methods = {name: getattr(TRLTrainer, name) for name in OVERRIDDEN}
    check_methods(methods)
    with pytest.raises(ImportError, match="GRPOTrainer has no method _compute_loss"):
        check_methods({**methods, "_compute_loss": None})

    def other(self: Any, model: Any, batch: Any) -> None: ...

    with pytest.raises(ImportError, match="expected the parameters self, model, inputs, got self,"):
        check_methods({**methods, "_compute_loss": other})


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_trainers_are_imported_by_their_own_module_alone() -> None:
    """entropy_ext must work, and import fast, where there is no trainer."""
    done = _python(
        "import sys, entropy_ext, entropy_ext.recipes, entropy_ext.rl, entropy_ext.integrations;"
        "found = {'trl', 'verl', 'transformers', 'accelerate', 'datasets'} & set(sys.modules);"
        "assert not found, found"
    )
    assert done.returncode == 0, done.stderr


def test_without_trl_the_error_says_what_to_install() -> None:
    """ "No module named trl" from the depths does not say which extra has it."""
    done = _python("import sys; sys.modules['trl'] = None; import entropy_ext.integrations.trl")
    assert "ImportError: entropy_ext.integrations.trl needs TRL: pip install" in done.stderr
    assert "entropy_ext[trl]" in done.stderr


def test_requirements_name_no_field_that_is_always_there() -> None:
    """A setting asked for in vain."""
    assert requirements(recipes.get("steer")) == []
    assert [name for name, _ in requirements(recipes.get("minirl"))] == ["rollout_logp"]


class _Critic(Recipe):
    name = "critic"
    needs = frozenset({"values", "mood"})


def test_a_recipe_of_ones_own_is_checked_too(tmp_path: Path) -> None:
    """A field that nobody knows must not be taken for one that is there."""
    with pytest.raises(ValueError, match=r"recipe critic .*mood \(.*values \("):
        trainer(GRPOTrainer, tmp_path, ours={"recipe": _Critic()})
