"""The league of all recipes on token trees."""

from __future__ import annotations

from functools import partial

from sim.lab.experiment import Profile
from sim.lab.league import measure_league
from sim.lab.league_claim import league_experiment
from sim.lab.tables import Tables
from sim.lab.tasks import token_tree
from sim.lab.tuning import Setting


def measure(profile: Profile) -> Tables:
    """Twelve prompts of 256 responses each, four at a time, about 1 % of them right."""
    task = partial(token_tree, prompts=12, answers=64, success=0.01)
    return measure_league(Setting(task, profile.pick(quick=3, full=24), groups=4), profile)


EXPERIMENT = league_experiment(name="league_tree", title="League: token trees", measure=measure)
