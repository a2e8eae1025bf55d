"""Does control pay with a small model more than with a large one?"""

from __future__ import annotations

from sim.lab.care import (
    CAPTION,
    EFFECT,
    TEST,
    Condition,
    criteria,
    judge_care,
    measure_care,
    plot_care,
)
from sim.lab.experiment import Experiment, Profile
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.lab.tuning import Setting, held_out


def _setting(features: int, steps: int) -> Setting:
    return Setting(
        task=lambda seeds: prompt_set(seeds, prompts=12, features=features),
        steps=steps,
        rates=(0.05, 0.1, 0.2, 0.4),
        scores=("held_out", "held_out@64"),
        groups=4,
        probe=held_out,
    )


def _conditions(quick: bool) -> tuple[Condition, Condition]:
    steps = 3 if quick else 24
    return Condition("4 features", _setting(4, steps)), Condition(
        "24 features", _setting(24, steps)
    )


def measure(profile: Profile) -> Tables:
    """Twelve prompts that share the parameters of 4 features, or of 24."""
    return measure_care(_conditions(profile.name == "quick"), profile)


EXPERIMENT = Experiment(
    name="care_model",
    title="When to care: a small model",
    group="When to care about entropy",
    claim="Explicit entropy control is needed for smaller models, and hardly for larger ones.",
    paper="the survey's table on when to care about entropy",
    effect=EFFECT,
    test=TEST,
    criteria=criteria(*_conditions(quick=False)),
    measure=measure,
    judge=judge_care,
    plot=plot_care,
    caption=CAPTION,
)
