"""One recipe per paper; each overrides only what its paper changes against GRPO."""

from __future__ import annotations

import inspect
from typing import Any

from entropy_ext.recipes.advanced import Advanced
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.bcpg_nsa import BcpgNsa
from entropy_ext.recipes.ce_gppo import CeGppo
from entropy_ext.recipes.cispo import Cispo
from entropy_ext.recipes.clip_cov import ClipCov
from entropy_ext.recipes.clip_higher import ClipHigher
from entropy_ext.recipes.combine import check_options, combine
from entropy_ext.recipes.cosine_length import CosineLength
from entropy_ext.recipes.dapo import Dapo
from entropy_ext.recipes.deepseek_v32 import DeepSeekV32
from entropy_ext.recipes.dppo import DppoKL, DppoTV
from entropy_ext.recipes.dr_grpo import DrGrpo
from entropy_ext.recipes.dro import Dro
from entropy_ext.recipes.dynamic_sampling import DynamicSampling
from entropy_ext.recipes.entropic import Entropic
from entropy_ext.recipes.entropy_neutral import EntropyNeutral
from entropy_ext.recipes.erc import Erc
from entropy_ext.recipes.gmpo import Gmpo
from entropy_ext.recipes.gpg import Gpg
from entropy_ext.recipes.gspo import Gspo
from entropy_ext.recipes.high_entropy_tokens import HighEntropyTokens
from entropy_ext.recipes.importance import MaskedIS, TruncatedIS
from entropy_ext.recipes.kl_cov import KLCov
from entropy_ext.recipes.luffy import Luffy
from entropy_ext.recipes.mean_baseline import MeanBaseline
from entropy_ext.recipes.minirl import MiniRL
from entropy_ext.recipes.opo import Opo
from entropy_ext.recipes.pass_at_k import PassAtK
from entropy_ext.recipes.positive_nll import PositiveNLL
from entropy_ext.recipes.positive_reweight import PositiveReweight
from entropy_ext.recipes.prorl import ProRL
from entropy_ext.recipes.psr_nsr import Nsr, Psr, WReinforce
from entropy_ext.recipes.reinforce_pp import ReinforcePP
from entropy_ext.recipes.rloo import Rloo
from entropy_ext.recipes.sapo import Sapo
from entropy_ext.recipes.seed_grpo import SeedGrpo
from entropy_ext.recipes.semantic_curriculum import SemanticCurriculum
from entropy_ext.recipes.sent import Sent
from entropy_ext.recipes.sequence_mask import SequenceMask
from entropy_ext.recipes.skywork_or1 import SkyworkOr1
from entropy_ext.recipes.starter import Starter
from entropy_ext.recipes.steer import Steer
from entropy_ext.recipes.two_sided import TwoSided
from entropy_ext.recipes.types import (
    Plan,
    PromptStats,
    Sampling,
    StepActions,
    Targets,
)
from entropy_ext.recipes.unlikeliness import Unlikeliness
from entropy_ext.recipes.vapo import Vapo
from entropy_ext.recipes.vespo import Vespo

__all__ = [
    "PARTS",
    "RECIPES",
    "Advanced",
    "BcpgNsa",
    "CeGppo",
    "Cispo",
    "ClipCov",
    "ClipHigher",
    "CosineLength",
    "Dapo",
    "DeepSeekV32",
    "DppoKL",
    "DppoTV",
    "DrGrpo",
    "Dro",
    "DynamicSampling",
    "Entropic",
    "EntropyNeutral",
    "Erc",
    "Gmpo",
    "Gpg",
    "Gspo",
    "HighEntropyTokens",
    "KLCov",
    "Luffy",
    "MaskedIS",
    "MeanBaseline",
    "MiniRL",
    "Nsr",
    "Opo",
    "PassAtK",
    "Plan",
    "PositiveNLL",
    "PositiveReweight",
    "ProRL",
    "PromptStats",
    "Psr",
    "Recipe",
    "ReinforcePP",
    "Rloo",
    "Sampling",
    "Sapo",
    "SeedGrpo",
    "SemanticCurriculum",
    "Sent",
    "SequenceMask",
    "SkyworkOr1",
    "Starter",
    "Steer",
    "StepActions",
    "Targets",
    "TruncatedIS",
    "TwoSided",
    "Unlikeliness",
    "Vapo",
    "Vespo",
    "WReinforce",
    "compose",
    "get",
]

RECIPES: dict[str, type[Recipe]] = {
    "grpo": Recipe,
    "dapo": Dapo,
    "vapo": Vapo,
    "seed_grpo": SeedGrpo,
    "bcpg_nsa": BcpgNsa,
    "clip_cov": ClipCov,
    "kl_cov": KLCov,
    "opo": Opo,
    "skywork_or1": SkyworkOr1,
    "prorl": ProRL,
    "high_entropy_tokens": HighEntropyTokens,
    "psr": Psr,
    "nsr": Nsr,
    "w_reinforce": WReinforce,
    "unlikeliness": Unlikeliness,
    "luffy": Luffy,
    "dr_grpo": DrGrpo,
    "steer": Steer,
    "positive_reweight": PositiveReweight,
    "entropic": Entropic,
    "sent": Sent,
    "deepseek_v32": DeepSeekV32,
    "minirl": MiniRL,
    "starter": Starter,
    "advanced": Advanced,
    "gspo": Gspo,
    "gmpo": Gmpo,
    "cispo": Cispo,
    "sapo": Sapo,
    "gpg": Gpg,
    "dppo_tv": DppoTV,
    "dppo_kl": DppoKL,
    "dro": Dro,
    "vespo": Vespo,
    "ce_gppo": CeGppo,
    "erc": Erc,
    "reinforce_pp": ReinforcePP,
    "rloo": Rloo,
    "two_sided": TwoSided,
    "truncated_is": TruncatedIS,
    "masked_is": MaskedIS,
    "entropy_neutral": EntropyNeutral,
}
"""Every recipe by name."""

PARTS: dict[str, type[Recipe]] = {
    "clip_higher": ClipHigher,
    "cosine_length": CosineLength,
    "dynamic_sampling": DynamicSampling,
    "mean_baseline": MeanBaseline,
    "pass_at_k": PassAtK,
    "positive_nll": PositiveNLL,
    "semantic_curriculum": SemanticCurriculum,
    "sequence_mask": SequenceMask,
}
"""Single changes that `compose` also accepts, most of them taken from a larger recipe."""


def get(name: str, **options: Any) -> Recipe:
    """The recipe of that name, with the paper's defaults unless `options` says otherwise.

    Args:
        name: a key of RECIPES.
        options: arguments of the recipe's class, such as clip_high=0.3.

    Raises:
        ValueError: an unknown name, or an option out of its bounds.
        TypeError: an option the recipe does not have, or of the wrong type.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {name!r}")
    recipe = RECIPES[name]
    known = {
        argument.name: None
        for part in recipe.__mro__
        if issubclass(part, Recipe)
        for argument in inspect.signature(part).parameters.values()
        if argument.kind is not argument.VAR_KEYWORD
    }
    if unknown := options.keys() - known.keys():
        got = ", ".join(map(repr, sorted(unknown)))
        raise TypeError(f"options: {name} has {', '.join(known)}, got {got}")
    return recipe(**options)


def compose(base: str | type[Recipe], *parts: str | type[Recipe], **options: Any) -> Recipe:
    """The base with each part's changes: `compose("dapo", "steer", "positive_reweight")`.

    Masks, weights, controllers and added terms of several parts act together; later parts see the
    plan of the earlier ones. Optimizer steps per rollout and sampling come from the base. If parts
    have different defaults for the same argument, the last part's default is used.

    Args:
        base: a name in RECIPES or PARTS, or a recipe class.
        parts: the same.
        options: arguments of any of them.

    Raises:
        ValueError: an unknown name; parts that cannot be combined, naming what they both override.
        TypeError: neither a name nor a recipe class; an option that none of them has.
    """
    known = RECIPES | PARTS
    classes: list[type[Recipe]] = []
    for part in (base, *parts):
        if isinstance(part, str):
            if part not in known:
                raise ValueError(f"compose: expected one of {', '.join(known)}, got {part!r}")
            classes.append(known[part])
        elif isinstance(part, type) and issubclass(part, Recipe):
            classes.append(part)
        else:
            raise TypeError(f"compose: expected a name or a recipe class, got {part!r}")
    combined = combine(*classes, aggregation=options.get("aggregation"))
    check_options(combined, options)
    return combined(**options)
