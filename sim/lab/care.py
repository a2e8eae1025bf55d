"""What entropy control is worth under one condition and another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from entropy_ext import recipes
from entropy_ext.recipes import Recipe
from sim.lab.experiment import FULL, Criterion, Experiment, Profile
from sim.lab.figures import style
from sim.lab.statistics import Interval, interval, paired
from sim.lab.tables import Cell, Table, Tables
from sim.lab.tuning import Options, Setting, Trial, final, run, tune
from sim.plots import panels

__all__ = ["Condition", "care_experiment", "criteria", "judge_care", "measure_care"]

PLAIN = "GRPO"
METHODS: Mapping[str, tuple[str, tuple[Options, ...]]] = {
    PLAIN: ("grpo", tuple({"clip_low": x, "clip_high": x} for x in (0.2, 0.1, 0.4))),
    "clip-higher": ("grpo", tuple({"clip_high": x} for x in (0.28, 0.4, 0.8))),
    "entropy bonus": ("grpo", tuple({"entropy_coef": x} for x in (0.003, 0.01, 0.03))),
    "KL-Cov": ("kl_cov", tuple({"fraction": x} for x in (0.002, 0.02, 0.2))),
    "EntroPIC": ("entropic", tuple({"target": x} for x in (0.1, 0.3, 0.6))),
    "entropy-neutral": ("entropy_neutral", tuple({"strength": x} for x in (1.0, 0.5, 0.25))),
}
SCORES = ("pass@1", "pass@64")
EFFECT = (
    "Control pays where the survey says it is needed: the control that did best in tuning beats "
    "GRPO there by 0.01 at least, tuned as long, and by more than where it says it is not."
)
TEST = (
    "Tuned on other seeds than those reported: three values of the main hyper-parameter by four "
    "learning rates for GRPO and each of five ways of control; the best of the five is chosen "
    "there, too. Paired differences over seeds on held-out prompts, Student's 95 % interval."
)
CAPTION = (
    "Each bar is a method tuned for what the panel shows, on held-out prompts, with its 95 % "
    "interval over seeds; the black line is GRPO's mean. The control that enters the criteria is "
    "the one that was best on the tuning seeds."
)


class Condition(NamedTuple):
    """One side of the question."""

    name: str
    setting: Setting
    part: str | None = None
    """what every recipe is composed with"""


def criteria(needed: Condition, other: Condition) -> tuple[Criterion, ...]:
    """Of both scores: that control pays where it is needed, and that it does so less elsewhere."""
    return tuple(
        criterion
        for score in SCORES
        for criterion in (
            Criterion(f"{score}, best control − GRPO, {needed.name}", above=0.01),
            Criterion(f"{score}, the same less that gain with {other.name}", above=0.0),
        )
    )


def measure_care(conditions: Sequence[Condition], profile: Profile) -> Tables:
    """Tables "runs" (condition, method, score, seed, value) and "tuning"."""
    seeds = range(1000, 1000 + profile.pick(quick=2, full=6))
    runs: list[Sequence[Cell]] = []
    tuning: list[Sequence[Cell]] = []
    for name, setting, part in conditions:
        task, trial = setting.task(range(profile.seeds)), Trial.of(setting, seeds)
        for method, (recipe, choices) in METHODS.items():
            make = _maker(recipe, part)
            tried = tune(make, choices[: profile.pick(quick=1, full=3)], setting, trial)
            for place, score in enumerate(SCORES):
                values = [scores[place] for _, scores in tried]
                config = tried[values.index(max(values))][0]
                history = run(make, config.options, setting, task, config.rate, points=8)
                reached = final(history, setting, setting.scores[place]).tolist()
                runs += [(name, method, score, n, x) for n, x in enumerate(reached)]
                tuning.append((name, method, score, str(config), max(values)))
    return {
        "runs": Table.of(("condition", "method", "score", "seed", "value"), runs),
        "tuning": Table.of(("condition", "method", "score", "configuration", "value"), tuning),
    }


def _maker(name: str, part: str | None) -> Callable[..., Recipe]:
    if part is None:
        return recipes.RECIPES[name]
    # Composed once: seeds whose recipes are of one class train together.
    return type(recipes.compose(name, part))


def _gains(tables: Tables, condition: str, score: str) -> list[float]:
    """Of the best control over GRPO, seed by seed."""
    tried = tables["tuning"].where(condition=condition, score=score)
    controls = [method for method in METHODS if method != PLAIN]
    best = max(controls, key=lambda method: tried.numbers("value", method=method)[0])
    runs = tables["runs"].where(condition=condition, score=score)
    pairs = zip(
        runs.numbers("value", method=best), runs.numbers("value", method=PLAIN), strict=True
    )
    return [a - b for a, b in pairs]


def judge_care(tables: Tables) -> Sequence[Interval]:
    """The gain under the first condition, and what it has over that under the second."""
    needed, other = map(str, tables["runs"].values("condition"))
    found = []
    for score in SCORES:
        gains = _gains(tables, needed, score)
        found += [interval(gains), paired(gains, _gains(tables, other, score))]
    return found


def plot_care(tables: Tables) -> Axes:
    """Every method under both conditions, a panel for each score."""
    axes = panels(2, width=6.2, height=4.2)
    conditions = [str(name) for name in tables["runs"].values("condition")]
    for axis, score in zip(axes, SCORES, strict=True):
        for side, condition in enumerate(conditions):
            runs = tables["runs"].where(condition=condition, score=score)
            found = [interval(runs.numbers("value", method=method)) for method in METHODS]
            places = [index + 0.38 * (side - 0.5) for index in range(len(found))]
            axis.bar(
                places,
                [x.value for x in found],
                yerr=[[x.value - x.low for x in found], [x.high - x.value for x in found]],
                width=0.36,
                color=style(side)["color"],
                error_kw={"elinewidth": 1.0},
                label=condition,
            )
            axis.hlines(
                found[0].value,
                places[0],
                places[-1],
                color="0.1",
                linewidth=0.8,
                linestyle=("-", "--")[side],
            )
        axis.set_xticks(range(len(METHODS)), list(METHODS), rotation=20, ha="right")
        axis.set_ylabel(f"{score}, held-out prompts")
        axis.set_axisbelow(True)
    axes[0].legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1.0))
    return axes[0]


def care_experiment(
    *,
    name: str,
    title: str,
    claim: str,
    conditions: Callable[[Profile], tuple[Condition, Condition]],
    measure: Callable[[Profile], Tables],
) -> Experiment:
    """The same question of two conditions, the first of which is said to need control.

    The measurement is `measure_care` of them, in the experiment's own file.
    """
    return Experiment(
        name=name,
        title=title,
        group="When to care about entropy",
        claim=claim,
        paper="the survey's table on when to care about entropy",
        effect=EFFECT,
        test=TEST,
        criteria=criteria(*conditions(FULL)),
        measure=measure,
        judge=judge_care,
        plot=plot_care,
        caption=CAPTION,
    )
