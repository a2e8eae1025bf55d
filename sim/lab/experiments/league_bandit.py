"""The league of all recipes on a needle among wrong arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sim.lab.experiment import Experiment, Profile
from sim.lab.league import CRITERIA, EFFECT, TEST, judge_league, measure_league
from sim.lab.league_view import CAPTION, scatter, standings
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
    setting = Setting(
        task=taught,
        steps=profile.pick(quick=6, full=40),
        rates=(0.05, 0.1, 0.2, 0.4),
        scores=("pass@1", "pass@64"),
        groups=1,
    )
    return measure_league(setting, profile)


EXPERIMENT = Experiment(
    name="league_bandit",
    title="League: a needle",
    group="The league",
    claim="Methods that keep entropy up perform better than those that let it go.",
    paper="the papers' common premise; a survey's open question whether entropy control matters",
    effect=EFFECT,
    test=TEST,
    criteria=CRITERIA,
    measure=measure,
    judge=judge_league,
    plot=scatter,
    standings=standings,
    caption=CAPTION,
)
