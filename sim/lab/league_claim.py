"""What the league is asked, the same on every task."""

from __future__ import annotations

from collections.abc import Callable

from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.league import judge_league
from sim.lab.league_view import CAPTION, scatter, standings
from sim.lab.tables import Tables

__all__ = ["league_experiment"]


def league_experiment(*, name: str, title: str, measure: Callable[[Profile], Tables]) -> Experiment:
    """The claim on one task; measure is `measure_league`, in the experiment's own file."""
    return Experiment(
        name=name,
        title=title,
        group="The league",
        claim="Methods that keep entropy up perform better than those that let it go.",
        paper="the papers' common premise; a survey's open question whether entropy control "
        "matters",
        effect="If entropy is what matters, methods that keep more of it are better: over the "
        "recipes, tuned alike, the rank correlation of entropy kept with performance is above 0. "
        "If control is what matters, the method of explicit entropy control that did best in "
        "tuning beats GRPO tuned as long, by 0.01 at least.",
        test="Rank correlations over recipes of means over seeds, 95 % interval by bootstrap over "
        "recipes and seeds; gains as paired differences over seeds, Student's 95 % interval. "
        "Tuned on other seeds than those reported; the best method is chosen there, too.",
        criteria=(
            Criterion("rank correlation of entropy kept and pass@1", above=0),
            Criterion("rank correlation of entropy kept and pass@64", above=0),
            Criterion("pass@1 of the best entropy control − GRPO", above=0.01),
            Criterion("pass@64 of the best entropy control − GRPO", above=0.01),
        ),
        measure=measure,
        judge=judge_league,
        plot=scatter,
        standings=standings,
        caption=CAPTION,
    )
