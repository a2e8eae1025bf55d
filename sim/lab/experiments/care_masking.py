"""Does control pay without masking more than with it?"""

from __future__ import annotations

from functools import partial

from sim.lab.care import Condition, care_experiment, measure_care
from sim.lab.experiment import Profile
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.lab.tuning import on_held_out


def conditions(profile: Profile) -> tuple[Condition, Condition]:
    """Responses of a sampler that is off by noise; masking leaves out the tokens it shows in."""
    task, steps = partial(prompt_set, prompts=12), profile.pick(quick=3, full=24)
    setting = on_held_out(task, steps=steps, mismatch=0.4)
    return Condition("no masking", setting), Condition("masking", setting, "masked_is")


def measure(profile: Profile) -> Tables:
    """Both tuned and trained."""
    return measure_care(conditions(profile), profile)


EXPERIMENT = care_experiment(
    name="care_masking",
    title="When to care: masking",
    claim="Where tokens of too different a sampler are masked, entropy needs no control.",
    conditions=conditions,
    measure=measure,
)
