"""Which recipes run in TRL: what each of them needs, and what TRL supplies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from entropy_ext.recipes import Recipe
from entropy_ext.recipes.semantic_curriculum import SemanticCurriculum

__all__ = ["FIELDS", "Refusal", "check_supplied", "refusals", "requirements", "supplied"]

FIELDS: dict[str, str] = {
    "old_entropy": "",
    "correct": "correct= where there are several reward functions",
    "truncated": "",
    "ref_logp": "",
    "answers": "answers=",
    "domain": "an integer column domain of the data set",
    "rollout_logp": "use_vllm=True or a rollout_func",
}
"""optional Rollout fields that are available, and what must be given for them"""

_ABSENT = {
    "values": "TRL's GRPOTrainer has no value head",
    "teacher": "TRL's groups are the policy's own responses",
    "teacher_logp": "TRL's groups are the policy's own responses",
    "step_correct": "TRL's rewards are one number per response",
    "support": "TRL does not return the token ids that its sampler kept",
}


class Refusal(NamedTuple):
    """Something that a recipe needs and TRL cannot supply."""

    field: str
    """a Rollout field, or the equivalent of one"""
    reason: str


def refusals(recipe: Recipe) -> list[Refusal]:
    """What the recipe needs and no setting of TRL can supply; empty for a recipe that runs."""
    found = [
        Refusal(name, _ABSENT.get(name, "TRL has no such thing"))
        for name in sorted(recipe.needs - FIELDS.keys())
    ]
    chooses = type(recipe).select_prompts is not Recipe.select_prompts
    if chooses and not (isinstance(recipe, SemanticCurriculum) and recipe.stages == 1):
        order = "TRL fixes the order of prompts beforehand; stages=1 turns the curriculum off"
        found.append(Refusal("prompt_stats", order))
    if recipe.sampling.offline:
        found.append(Refusal("sampling.offline", "TRL trains on what it has just sampled"))
    return found


def requirements(recipe: Recipe) -> list[tuple[str, str]]:
    """The fields that a recipe gets only with a certain setting, and that setting."""
    return [(name, FIELDS[name]) for name in sorted(recipe.needs) if FIELDS.get(name)]


def check_supplied(recipe: Recipe, given: Collection[str]) -> None:
    """Raise ValueError naming the recipe and each field that it lacks.

    Args:
        recipe: the recipe to be run.
        given: the fields that the trainer's arguments supply.
    """
    missing = [f"{field} ({reason})" for field, reason in refusals(recipe)]
    missing += [f"{name} (give {how})" for name, how in requirements(recipe) if name not in given]
    if missing:
        lacking = "; ".join(missing)
        raise ValueError(f"recipe {recipe.name} needs what TRL does not supply: {lacking}")


def supplied(args: Any, given: Mapping[str, Any], correct: object, answers: object) -> set[str]:
    """The Rollout fields that depend on a setting and are supplied with these arguments.

    Args:
        args: the GRPOConfig.
        given: TRL's arguments by name.
        correct, answers: the arguments of this library's GRPOTrainer.
    """
    rewards = given.get("reward_funcs")
    columns = getattr(given.get("train_dataset"), "column_names", None) or ()
    brought = {
        "rollout_logp": args.use_vllm or given.get("rollout_func") is not None,
        "correct": correct is not None or not isinstance(rewards, list) or len(rewards) == 1,
        "answers": answers is not None,
        "domain": "domain" in columns,
    }
    return {name for name, has in brought.items() if has}
