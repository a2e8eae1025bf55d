"""Which recipes run in verl, and what verl does not pass on."""

from __future__ import annotations

from typing import Literal, NamedTuple

from entropy_ext.recipes import Recipe

__all__ = ["COVERAGE", "PREFIX", "PROVIDED", "Coverage", "Route", "check_covered", "route"]

PREFIX = "entropy_ext/"
"""prefix of a recipe's name in verl's registries"""

Route = Literal["policy loss", "actor hook"]

_FILTER = "group filter: algorithm.filter_groups"
_OVERLONG = "overlong penalty: verl's dapo reward manager"
_CURRICULUM = "curriculum: refused, stages=1 turns it off"

PROVIDED = {
    "ref_logp": ("ref_log_prob", "actor.use_kl_loss=True with actor.kl_loss_coef=0"),
    "rollout_logp": ("rollout_log_probs", "rollout.calculate_log_probs=True"),
    "old_entropy": ("entropy", "algorithm.rollout_correction.bypass_mode=False"),
}
"""Rollout field → its name in verl's actor update, and the setting that fills it"""


class Coverage(NamedTuple):
    """One recipe in verl."""

    loss: Route | None = "policy loss"
    """"policy loss": verl's signature has all it needs; "actor hook": it needs entropies, more
    fields or the whole mini-batch; None: it cannot run"""
    missing: str = ""
    """what verl does not pass on, if loss is None"""
    correct: bool = False
    """the advantages depend on whether answers are right, not on rewards: `register` takes
    correct_above"""
    entropy: bool = False
    """the loss itself uses the current entropy"""
    left: str = ""
    """parts of the recipe that are left to verl's settings or have no counterpart there"""


COVERAGE: dict[str, Coverage] = {
    "grpo": Coverage(),
    "dapo": Coverage(left=f"{_FILTER}; {_OVERLONG}"),
    "vapo": Coverage(None, "Rollout.values and Rollout.correct in the actor's update"),
    "seed_grpo": Coverage(None, "Rollout.answers where advantages are made"),
    "bcpg_nsa": Coverage(None, "Rollout.step_correct, and stored responses"),
    "clip_cov": Coverage("actor hook", left=_FILTER),
    "kl_cov": Coverage("actor hook", left=_FILTER),
    "opo": Coverage(),
    "skywork_or1": Coverage(
        "actor hook", entropy=True, left="groups with equal rewards stay, with advantage 0"
    ),
    "prorl": Coverage(None, "a reference that StepActions.reset_reference can move"),
    "high_entropy_tokens": Coverage("actor hook", left=f"{_FILTER}; {_OVERLONG}"),
    "psr": Coverage(correct=True, left="wrong answers stay, with advantage 0, and count in means"),
    "nsr": Coverage(correct=True, left="right answers stay, with advantage 0, and count in means"),
    "w_reinforce": Coverage(correct=True),
    "unlikeliness": Coverage(None, "Rollout.old_logp where rewards are shaped"),
    "luffy": Coverage(None, "Rollout.teacher, and a teacher's responses"),
    "dr_grpo": Coverage(),
    "steer": Coverage("actor hook"),
    "positive_reweight": Coverage("actor hook"),
    "entropic": Coverage("actor hook"),
    "sent": Coverage("actor hook", left=_CURRICULUM),
    "deepseek_v32": Coverage("actor hook", left="kept token ids and kept routing"),
    "minirl": Coverage("actor hook"),
    "starter": Coverage("actor hook", correct=True),
    "advanced": Coverage("actor hook", left=f"{_FILTER}; {_CURRICULUM}"),
    "gspo": Coverage(),
    "gmpo": Coverage(),
    "cispo": Coverage(),
    "sapo": Coverage(),
    "gpg": Coverage(),
    "dppo_tv": Coverage(),
    "dppo_kl": Coverage(),
    "dro": Coverage(),
    "vespo": Coverage(),
    "ce_gppo": Coverage(),
    "erc": Coverage("actor hook", entropy=True),
    "reinforce_pp": Coverage(),
    "rloo": Coverage(),
    "two_sided": Coverage(),
    "truncated_is": Coverage("actor hook"),
    "masked_is": Coverage("actor hook"),
    "entropy_neutral": Coverage(None, "stats.collision and stats.collision_logp"),
}
"""Every recipe; docs/integrations.md shows this table."""


def route(recipe: Recipe) -> Route | None:
    """How the loss of a recipe is called by verl, given the recipe's options."""
    if _missing(recipe):
        return None
    # The bonus needs entropies and the penalty a reference, which verl does not pass to policy
    # losses.
    if recipe.entropy_coef != 0 or recipe.kl_coef > 0:
        return "actor hook"
    return COVERAGE[recipe.name].loss


def check_covered(recipe: Recipe) -> None:
    """Raise ValueError naming what verl does not pass on, if this recipe cannot do without it."""
    if missing := _missing(recipe):
        raise ValueError(f"recipe {recipe.name} needs {missing}, which verl does not pass on")


def _missing(recipe: Recipe) -> str:
    if missing := COVERAGE[recipe.name].missing:
        return missing
    if recipe.extras:
        return "stats.collision and stats.collision_logp"
    if getattr(recipe, "stages", 1) > 1:
        return "PromptStats.semantic_entropy (stages=1 turns the curriculum off)"
    return ""
