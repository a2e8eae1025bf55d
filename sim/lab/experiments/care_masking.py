"""Does control pay without masking more than with it?"""

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


def _setting(steps: int) -> Setting:
    return Setting(
        task=lambda seeds: prompt_set(seeds, prompts=12),
        steps=steps,
        rates=(0.05, 0.1, 0.2, 0.4),
        scores=("held_out", "held_out@64"),
        groups=4,
        probe=held_out,
        options={"mismatch": 0.4},
    )


def _conditions(quick: bool) -> tuple[Condition, Condition]:
    setting = _setting(3 if quick else 24)
    return Condition("no masking", setting), Condition("masking", setting, "masked_is")


def measure(profile: Profile) -> Tables:
    """Responses of a sampler that is off by noise; masking leaves out the tokens it shows in."""
    return measure_care(_conditions(profile.name == "quick"), profile)


EXPERIMENT = Experiment(
    name="care_masking",
    title="When to care: masking",
    group="When to care about entropy",
    claim="Where tokens of too different a sampler are masked, entropy needs no control.",
    paper="the survey's table on when to care about entropy",
    effect=EFFECT,
    test=TEST,
    criteria=criteria(*_conditions(quick=False)),
    measure=measure,
    judge=judge_care,
    plot=plot_care,
    caption=CAPTION,
)
