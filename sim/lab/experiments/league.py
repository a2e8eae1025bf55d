"""The league of all recipes on prompts that share parameters; scored on prompts held out."""

from __future__ import annotations

from sim.lab.experiment import Experiment, Profile
from sim.lab.league import CRITERIA, EFFECT, TEST, judge_league, measure_league
from sim.lab.league_view import CAPTION, scatter, standings
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.lab.tuning import Setting, held_out


def measure(profile: Profile) -> Tables:
    """Prompts from easy to hard, four at a time; others on the same grid are held out."""
    setting = Setting(
        task=lambda seeds: prompt_set(seeds, prompts=24, features=8),
        steps=profile.pick(quick=3, full=24),
        rates=(0.05, 0.1, 0.2, 0.4),
        scores=("held_out", "held_out@64"),
        groups=4,
        probe=held_out,
    )
    return measure_league(setting, profile)


EXPERIMENT = Experiment(
    name="league",
    title="League: held-out prompts",
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
