"""The league of all recipes on a needle among wrong arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sim.lab.experiment import Profile
from sim.lab.league import measure_league
from sim.lab.league_claim import league_experiment
from sim.lab.tables import Tables
from sim.lab.task import Task
from sim.lab.tasks import needle
from sim.lab.tuning import Setting


def taught(seeds: Sequence[int]) -> Task:
    """A needle whose teacher, which LUFFY alone listens to, knows the right arm."""
    task = needle(seeds, prior=0.002)
    return replace(task, teacher=task.correct.double())


def measure(profile: Profile) -> Tables:
    """One right arm of probability 0.002: what is not found is not learnt."""
    return measure_league(Setting(taught, profile.pick(quick=6, full=40), groups=1), profile)


EXPERIMENT = league_experiment(name="league_bandit", title="League: a needle", measure=measure)
