"""Does control pay with a small model more than with a large one?"""

from __future__ import annotations

from functools import partial

from sim.lab.care import Condition, care_experiment, measure_care
from sim.lab.experiment import Profile
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.lab.tuning import on_held_out


def conditions(profile: Profile) -> tuple[Condition, Condition]:
    """Twelve prompts that share the parameters of 4 features, or of 24."""
    task, steps = partial(prompt_set, prompts=12), profile.pick(quick=3, full=24)
    small, large = (on_held_out(partial(task, features=n), steps=steps) for n in (4, 24))
    return Condition("4 features", small), Condition("24 features", large)


def measure(profile: Profile) -> Tables:
    """Both tuned and trained."""
    return measure_care(conditions(profile), profile)


EXPERIMENT = care_experiment(
    name="care_model",
    title="When to care: a small model",
    claim="Explicit entropy control is needed for smaller models, and hardly for larger ones.",
    conditions=conditions,
    measure=measure,
)
