"""One recipe per paper; each overrides only what its paper changes against GRPO."""

from __future__ import annotations

from typing import Any

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.bcpg_nsa import BcpgNsa
from entropy_ext.recipes.clip_cov import ClipCov
from entropy_ext.recipes.dapo import Dapo
from entropy_ext.recipes.deepseek_v32 import DeepSeekV32
from entropy_ext.recipes.dr_grpo import DrGrpo
from entropy_ext.recipes.entropic import Entropic
from entropy_ext.recipes.entropy_neutral import EntropyNeutral
from entropy_ext.recipes.high_entropy_tokens import HighEntropyTokens
from entropy_ext.recipes.kl_cov import KLCov
from entropy_ext.recipes.luffy import Luffy
from entropy_ext.recipes.minirl import MiniRL
from entropy_ext.recipes.opo import Opo
from entropy_ext.recipes.positive_reweight import PositiveReweight
from entropy_ext.recipes.prorl import ProRL
from entropy_ext.recipes.psr_nsr import Nsr, Psr, WReinforce
from entropy_ext.recipes.seed_grpo import SeedGrpo
from entropy_ext.recipes.sent import Sent
from entropy_ext.recipes.skywork_or1 import SkyworkOr1
from entropy_ext.recipes.steer import Steer
from entropy_ext.recipes.types import (
    Plan,
    PromptStats,
    Sampling,
    StepActions,
    Targets,
)
from entropy_ext.recipes.unlikeliness import Unlikeliness
from entropy_ext.recipes.vapo import Vapo

__all__ = [
    "RECIPES",
    "BcpgNsa",
    "ClipCov",
    "Dapo",
    "DeepSeekV32",
    "DrGrpo",
    "Entropic",
    "EntropyNeutral",
    "HighEntropyTokens",
    "KLCov",
    "Luffy",
    "MiniRL",
    "Nsr",
    "Opo",
    "Plan",
    "PositiveReweight",
    "ProRL",
    "PromptStats",
    "Psr",
    "Recipe",
    "Sampling",
    "SeedGrpo",
    "Sent",
    "SkyworkOr1",
    "Steer",
    "StepActions",
    "Targets",
    "Unlikeliness",
    "Vapo",
    "WReinforce",
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
    "entropy_neutral": EntropyNeutral,
}
"""Every recipe by name."""


def get(name: str, **options: Any) -> Recipe:
    """The recipe of that name, with the paper's defaults unless `options` says otherwise.

    Args:
        name: a key of RECIPES.
        options: arguments of the recipe's class, such as clip_high=0.3.

    Raises:
        ValueError: an unknown name, or an option out of its bounds.
        TypeError: an option the recipe does not have.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name](**options)
