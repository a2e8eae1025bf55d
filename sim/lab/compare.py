"""Training the arms of a comparison on the same task, seeds and luck."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from entropy_ext import recipes
from entropy_ext.recipes import Recipe
from sim.lab.measures import History
from sim.lab.statistics import Interval, interval, paired
from sim.lab.tables import Cell, Table, Tables
from sim.lab.task import Task
from sim.lab.training import train

__all__ = ["Arm", "arm", "compare", "difference", "final", "tabulate"]

MEASURES = ("entropy", "reward", "kl")


class Arm(NamedTuple):
    """One side of a comparison."""

    recipe: Callable[[], Recipe]
    train: Mapping[str, Any]
    """arguments of `train` that are this arm's own"""


def arm(name: str, *, train: Mapping[str, Any] | None = None, **options: Any) -> Arm:
    """A recipe by name with its options, and what is particular to its training."""
    return Arm(lambda: recipes.get(name, **options), dict(train or {}))


def compare(
    task: Task,
    arms: Mapping[str, Arm],
    *,
    steps: int,
    learning_rate: float,
    measures: Sequence[str] = MEASURES,
    points: int = 40,
    **options: Any,
) -> Tables:
    """Train every arm; `tabulate` of the runs.

    Args:
        task: of all seeds.
        arms: name → arm.
        steps: training steps.
        learning_rate: of the policy.
        measures: which to keep.
        points: measurements along the run, about.
        options: the remaining arguments of `train`, for all arms.
    """
    common = {"steps": steps, "learning_rate": learning_rate, "every": max(1, steps // points)}
    histories = {
        name: train(task, side.recipe, **{**common, **options, **side.train})
        for name, side in arms.items()
    }
    return tabulate(histories, task.seeds, measures)


def tabulate(
    histories: Mapping[str, History], seeds: Tensor, measures: Sequence[str] = MEASURES
) -> Tables:
    """Tables "curves" and "finals" of some runs.

    curves: arm, measure, step, mean, low, high: mean over seeds with its 95 % interval.
    finals: arm, measure, seed, start, value: both ends of each run.
    """
    curves: list[Sequence[Cell]] = []
    finals: list[Sequence[Cell]] = []
    for arm, history in histories.items():
        for measure in measures:
            values = history[measure].tolist()
            for step, row in zip(history.steps, values, strict=True):
                curves.append((arm, measure, step, *interval(row)[:3]))
            for seed, first, last in zip(seeds.tolist(), values[0], values[-1], strict=True):
                finals.append((arm, measure, seed, first, last))
    return {
        "curves": Table.of(("arm", "measure", "step", "mean", "low", "high"), curves),
        "finals": Table.of(("arm", "measure", "seed", "start", "value"), finals),
    }


def final(tables: Tables, arm: str, measure: str) -> Interval:
    """Mean over seeds at the end of an arm's run."""
    return interval(tables["finals"].numbers("value", arm=arm, measure=measure))


def difference(tables: Tables, measure: str, arm: str, other: str) -> Interval:
    """Mean over seeds of arm − other at the end, seed by seed."""
    finals = tables["finals"]
    return paired(
        finals.numbers("value", arm=arm, measure=measure),
        finals.numbers("value", arm=other, measure=measure),
    )
