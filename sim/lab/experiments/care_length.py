"""Does control pay in long training more than in short?"""

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
    )


def _conditions(quick: bool) -> tuple[Condition, Condition]:
    long, short = (8, 3) if quick else (72, 12)
    return Condition("long training", _setting(long)), Condition("short training", _setting(short))


def measure(profile: Profile) -> Tables:
    """Twelve prompts for 12 steps or for 72."""
    return measure_care(_conditions(profile.name == "quick"), profile)


EXPERIMENT = Experiment(
    name="care_length",
    title="When to care: long training",
    group="When to care about entropy",
    claim="Explicit entropy control is needed in long training, and hardly in short.",
    paper="the survey's table on when to care about entropy",
    effect=EFFECT,
    test=TEST,
    criteria=criteria(*_conditions(quick=False)),
    measure=measure,
    judge=judge_care,
    plot=plot_care,
    caption=CAPTION,
)
