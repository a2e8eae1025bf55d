"""The league of all recipes on prompts that share parameters; scored on prompts held out."""

from __future__ import annotations

from functools import partial

from sim.lab.experiment import Profile
from sim.lab.league import measure_league
from sim.lab.league_claim import league_experiment
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.lab.tuning import on_held_out


def measure(profile: Profile) -> Tables:
    """Prompts from easy to hard, four at a time; others on the same grid are held out."""
    task = partial(prompt_set, prompts=24, features=8)
    return measure_league(on_held_out(task, steps=profile.pick(quick=3, full=24)), profile)


EXPERIMENT = league_experiment(name="league", title="League: held-out prompts", measure=measure)
