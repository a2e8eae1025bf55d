"""Does control pay in long training more than in short?"""

from __future__ import annotations

from functools import partial

from sim.lab.care import Condition, care_experiment, measure_care
from sim.lab.experiment import Profile
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.lab.tuning import on_held_out


def conditions(profile: Profile) -> tuple[Condition, Condition]:
    """Twelve prompts for 72 steps or for 12."""
    task = partial(prompt_set, prompts=12)
    long = on_held_out(task, steps=profile.pick(quick=8, full=72))
    short = on_held_out(task, steps=profile.pick(quick=3, full=12))
    return Condition("long training", long), Condition("short training", short)


def measure(profile: Profile) -> Tables:
    """Both tuned and trained."""
    return measure_care(conditions(profile), profile)


EXPERIMENT = care_experiment(
    name="care_length",
    title="When to care: long training",
    claim="Explicit entropy control is needed in long training, and hardly in short.",
    conditions=conditions,
    measure=measure,
)
