"""Training the arms of a comparison on the same task, seeds and luck."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import sub
from typing import Any, NamedTuple

import torch
from torch import Tensor

from entropy_ext import recipes
from entropy_ext.recipes import Recipe
from sim.lab.measures import History
from sim.lab.statistics import Interval, interval, paired
from sim.lab.tables import Cell, Table, Tables
from sim.lab.task import Task
from sim.lab.training import train

__all__ = [
    "AT_LEVEL",
    "Arm",
    "arm",
    "at_level",
    "compare",
    "counted_from",
    "difference",
    "difference_at",
    "ends",
    "falls",
    "final",
    "gained",
    "initial",
    "lost",
    "misses",
    "second_halves",
    "tabulate",
]

MEASURES = ("entropy", "reward", "kl")
AT_LEVEL = "entropy at the level"


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
    level: float | None = None,
    runs: bool = False,
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
        level: see `tabulate`.
        runs: see `tabulate`.
        options: the remaining arguments of `train`, for all arms.
    """
    common = {"steps": steps, "learning_rate": learning_rate, "every": max(1, steps // points)}
    histories = {
        name: train(task, side.recipe, **{**common, **options, **side.train})
        for name, side in arms.items()
    }
    return tabulate(histories, task.seeds, measures, level=level, runs=runs)


def tabulate(
    histories: Mapping[str, History],
    seeds: Tensor,
    measures: Sequence[str] = MEASURES,
    *,
    level: float | None = None,
    runs: bool = False,
) -> Tables:
    """Tables "curves" and "finals" of some runs.

    curves: arm, measure, step, mean, low, high: mean over seeds with its 95 % interval.
    finals: arm, measure, seed, start, value: both ends of each run. With a level also the measure
    AT_LEVEL, whose value is the entropy when the expected reward first reached the level: which
    tells what a method does to the entropy from how fast it learns. NaN if it never did.
    runs, if asked for: arm, seed, step and every measure: each run by itself.
    """
    curves: list[Sequence[Cell]] = []
    finals: list[Sequence[Cell]] = []
    whole: list[Sequence[Cell]] = []
    for arm, history in histories.items():
        for measure in measures:
            values = history[measure].tolist()
            for step, row in zip(history.steps, values, strict=True):
                curves.append((arm, measure, step, *interval(row)[:3]))
            for seed, first, last in zip(seeds.tolist(), values[0], values[-1], strict=True):
                finals.append((arm, measure, seed, first, last))
        if level is not None:
            reached = at_level(history["reward"], history["entropy"], level)
            rows = zip(seeds.tolist(), history["entropy"][0].tolist(), reached, strict=True)
            finals += [(arm, AT_LEVEL, *row) for row in rows]
        if runs:
            every = torch.stack([history[measure] for measure in measures], -1).tolist()
            for step, rows in zip(history.steps, every, strict=True):
                whole += [(arm, n, step, *row) for n, row in zip(seeds.tolist(), rows, strict=True)]
    tables = {
        "curves": Table.of(("arm", "measure", "step", "mean", "low", "high"), curves),
        "finals": Table.of(("arm", "measure", "seed", "start", "value"), finals),
    }
    if runs:
        tables["runs"] = Table.of(("arm", "seed", "step", *measures), whole)
    return tables


def counted_from(curves: Table, first: Mapping[str, int]) -> Table:
    """The table "curves" with each arm's steps counted from one of its own; none before it."""
    rows: list[Sequence[Cell]] = []
    for arm, measure, step, *rest in curves.rows:
        since = int(step) - first[str(arm)]
        if since >= 0:
            rows.append((arm, measure, since, *rest))
    return Table.of(curves.columns, rows)


def at_level(rising: Tensor, other: Tensor, level: float) -> list[float]:
    """`other` where `rising` first reaches a level, between measurements on a straight line.

    Args:
        rising, other: [K, N].
        level: of `rising`.

    Returns:
        N numbers; NaN where the level is never reached.
    """
    found = []
    for x, y in zip(rising.T.tolist(), other.T.tolist(), strict=True):
        place = next((k for k, value in enumerate(x) if value >= level), None)
        if place is None:
            found.append(math.nan)
        elif place == 0:
            found.append(y[0])
        else:
            share = (level - x[place - 1]) / (x[place] - x[place - 1])
            found.append(y[place - 1] + share * (y[place] - y[place - 1]))
    return found


def final(tables: Tables, arm: str, measure: str) -> Interval:
    """Mean over seeds at the end of an arm's run."""
    return interval(tables["finals"].numbers("value", arm=arm, measure=measure))


def initial(tables: Tables, arm: str, measure: str) -> Interval:
    """Mean over seeds before an arm's run."""
    return interval(tables["finals"].numbers("start", arm=arm, measure=measure))


def gained(tables: Tables, arm: str, measure: str) -> Interval:
    """Mean over seeds of end − start of an arm's run."""
    rows = tables["finals"].where(arm=arm, measure=measure)
    return paired(rows.numbers("value"), rows.numbers("start"))


def ends(tables: Tables, arm: str, measure: str) -> list[float]:
    """Of each seed, at the end of an arm's run."""
    return tables["finals"].numbers("value", arm=arm, measure=measure)


def misses(tables: Tables, arm: str, target: float, measure: str = "entropy") -> list[float]:
    """|measure − target| of each seed at the end of an arm's run."""
    return [abs(end - target) for end in ends(tables, arm, measure)]


def falls(tables: Tables, arm: str, measure: str = "reward") -> list[float]:
    """The largest fall of each seed's run below what it had reached before; wants "runs"."""
    runs = tables["runs"].each_seed(measure, arm=arm)
    return [max(map(sub, accumulate(run, max), run)) for run in runs]


def second_halves(runs: Table, arm: str, measure: str) -> list[list[float]]:
    """Of each seed the measure along the second half of an arm's run, measured points."""
    return [run[len(run) // 2 :] for run in runs.each_seed(measure, arm=arm)]


def lost(tables: Tables, arm: str) -> Interval:
    """Share of its entropy that an arm loses, mean over seeds."""
    finals = tables["finals"].where(arm=arm, measure="entropy")
    pairs = zip(finals.numbers("start"), finals.numbers("value"), strict=True)
    return interval([1 - end / start for start, end in pairs])


def difference(tables: Tables, measure: str, arm: str, other: str) -> Interval:
    """Mean over seeds of arm − other at the end, seed by seed; of those where both are known."""
    finals = tables["finals"]
    pairs = zip(
        finals.numbers("value", arm=arm, measure=measure),
        finals.numbers("value", arm=other, measure=measure),
        strict=True,
    )
    return _paired_where_known(pairs)


def difference_at(
    tables: Tables, measure: str, arm: str, other: str, *, level: float, of: str = "reward"
) -> Interval:
    """Mean over seeds of arm − other, each where its own `of` first reached a level.

    Args:
        tables: with "runs".
        measure: what is compared.
        arm, other: which arms.
        level: of `of`; seeds of which either arm never reaches it are left out.
        of: what both have as much of: the reward, the responses sampled.
    """
    reached = []
    for name in (arm, other):
        rising, values = (
            torch.tensor(tables["runs"].each_seed(column, arm=name), dtype=torch.float64).T
            for column in (of, measure)
        )
        reached.append(at_level(rising, values, level))
    return _paired_where_known(zip(*reached, strict=True))


def _paired_where_known(pairs: Iterable[tuple[float, float]]) -> Interval:
    known = [(a, b) for a, b in pairs if not math.isnan(a) and not math.isnan(b)]
    if len(known) < 10:
        return Interval(math.nan, math.nan, math.nan, len(known))
    return paired([a for a, _ in known], [b for _, b in known])
