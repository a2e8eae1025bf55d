"""Does control pay with little data more than with much?"""

from __future__ import annotations

from functools import partial

from sim.lab.care import Condition, care_experiment, measure_care
from sim.lab.experiment import Profile
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.lab.tuning import on_held_out


def conditions(profile: Profile) -> tuple[Condition, Condition]:
    """As many responses of four prompts or of 32."""
    steps = profile.pick(quick=3, full=24)
    little, much = (on_held_out(partial(prompt_set, prompts=n), steps=steps) for n in (4, 32))
    return Condition("4 prompts", little), Condition("32 prompts", much)


def measure(profile: Profile) -> Tables:
    """Both tuned and trained."""
    return measure_care(conditions(profile), profile)


EXPERIMENT = care_experiment(
    name="care_data",
    title="When to care: little data",
    claim="Explicit entropy control is needed with limited data, and hardly with abundant data.",
    conditions=conditions,
    measure=measure,
)
