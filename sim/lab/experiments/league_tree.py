"""The league of all recipes on token trees."""

from __future__ import annotations

from sim.lab.experiment import Experiment, Profile
from sim.lab.league import CRITERIA, EFFECT, TEST, judge_league, measure_league
from sim.lab.league_view import CAPTION, scatter, standings
from sim.lab.tables import Tables
from sim.lab.tasks import token_tree
from sim.lab.tuning import Setting


def measure(profile: Profile) -> Tables:
    """Twelve prompts of 256 responses each, four at a time, about 1 % of them right."""
    setting = Setting(
        task=lambda seeds: token_tree(seeds, prompts=12, answers=64, success=0.01),
        steps=profile.pick(quick=3, full=24),
        rates=(0.05, 0.1, 0.2, 0.4),
        scores=("pass@1", "pass@64"),
        groups=4,
    )
    return measure_league(setting, profile)


EXPERIMENT = Experiment(
    name="league_tree",
    title="League: token trees",
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
