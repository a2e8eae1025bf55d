"""What a comparison left on disk, read back and summed up over seeds."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sim.lab.statistics import t_quantile
from sim.rlvr.compare_files import run_directory, start_file

__all__ = [
    "Band",
    "Estimate",
    "Run",
    "TaskResults",
    "band",
    "estimate",
    "load",
    "pass_band",
    "write_finals",
]

LAST = 5
"""steps whose mean stands for the end of training"""

_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)
"""Student's 0.975 quantile for 1 to 8 degrees of freedom"""


@dataclass(frozen=True)
class Run:
    """One finished run."""

    seed: int
    rows: list[dict[str, float]]
    """a row per training step"""
    final: dict[str, Any]
    """see `compare_measure.measure`"""

    def last(self, column: str) -> float:
        """Mean over the last steps."""
        return statistics.fmean(row[column] for row in self.rows[-LAST:])


@dataclass(frozen=True)
class TaskResults:
    """All finished runs on one task."""

    task: str
    starts: list[dict[str, Any]]
    """of each seed: the policy before training, see `compare_measure.measure`"""
    runs: dict[str, list[Run]]
    """recipe → its runs by seed; recipes without a finished run are left out"""


class Estimate(NamedTuple):
    """A mean over seeds and half the width of its 95 % interval; NaN for a single seed."""

    mean: float
    half: float
    seeds: int


class Band(NamedTuple):
    """Mean, least and greatest over seeds at each place."""

    at: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def load(
    out: Path, names: Sequence[str], tasks: Sequence[str], seeds: int, *, steps: int
) -> list[TaskResults]:
    """The runs of each task that finished so many steps; those that are to be longer are not."""
    found = []
    for task in tasks:
        starts = [start_file(out, task, seed) for seed in range(seeds)]
        runs = {
            name: [
                run
                for seed in range(seeds)
                if (run := _run(run_directory(out, task, seed, name), seed, steps)) is not None
            ]
            for name in names
        }
        found.append(
            TaskResults(
                task=task,
                starts=[json.loads(path.read_text()) for path in starts if path.exists()],
                runs={name: each for name, each in runs.items() if each},
            )
        )
    return found


def write_finals(path: Path, results: Sequence[TaskResults]) -> None:
    """One row per run, and per policy before training, as CSV."""
    rows: list[dict[str, Any]] = []
    for task in results:
        for seed, start in enumerate(task.starts):
            rows.append({"task": task.task, "recipe": "", "seed": seed, **_flat(start)})
        for name, runs in task.runs.items():
            for run in runs:
                ends = {column: run.last(column) for column in ("reward", "kl_reference")}
                sampled = sum(row["sampled"] for row in run.rows)
                label = {"task": task.task, "recipe": name, "seed": run.seed}
                rows.append({**label, **_flat(run.final), **ends, "sampled": sampled})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def estimate(values: Sequence[float]) -> Estimate:
    """Student's 95 % interval of the mean of independent values."""
    count = len(values)
    if count < 2:
        return Estimate(values[0], math.nan, count)
    t = _T[count - 2] if count - 2 < len(_T) else t_quantile(0.975, count - 1)
    half = t * statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), half, count)


def band(runs: Sequence[Run], column: str, *, window: int = LAST) -> Band:
    """A column of the training steps that every seed has done.

    Args:
        runs: one per seed.
        column: of their rows.
        window: steps in the moving average taken of each seed first, the step itself the last.
    """
    steps = min(len(run.rows) for run in runs)
    places = [float(row["step"]) for row in runs[0].rows[:steps]]
    values = [[row[column] for row in run.rows[:steps]] for run in runs]
    smooth = [
        [statistics.fmean(each[max(0, i + 1 - window) : i + 1]) for i in range(steps)]
        for each in values
    ]
    return _over_seeds(places, smooth)


def pass_band(finals: Sequence[dict[str, Any]]) -> Band:
    """pass@k against k."""
    powers = list(finals[0]["pass_at_k"])
    values = [[final["pass_at_k"][k] for k in powers] for final in finals]
    return _over_seeds([float(k) for k in powers], values)


def _flat(final: dict[str, Any]) -> dict[str, float]:
    passed = {f"pass@{k}": value for k, value in final["pass_at_k"].items()}
    return passed | {"entropy": final["entropy"], "forking": final["forking"]}


def _over_seeds(at: list[float], values: list[list[float]]) -> Band:
    columns = list(zip(*values, strict=True))
    return Band(
        at,
        [statistics.fmean(column) for column in columns],
        [min(column) for column in columns],
        [max(column) for column in columns],
    )


def _run(directory: Path, seed: int, steps: int) -> Run | None:
    if not (directory / "final.json").exists():
        return None
    final = json.loads((directory / "final.json").read_text())
    if final["label"]["steps"] != steps:
        return None
    with (directory / "steps.csv").open(newline="") as file:
        rows = [
            {name: float(text) for name, text in row.items() if text}
            for row in csv.DictReader(file)
        ]
    return Run(seed, rows, final)
