"""Every recipe on one task: with the paper's hyper-parameters, and tuned by the same budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from entropy_ext import recipes
from sim.lab.compare import at_level
from sim.lab.draws import uniforms
from sim.lab.experiment import Profile
from sim.lab.recipe_choices import CHOICES, CONTROLS
from sim.lab.statistics import Interval, interval, paired, rank_correlation
from sim.lab.tables import Cell, Table, Tables
from sim.lab.tuning import Config, Setting, Trial, final, run, tune

__all__ = [
    "AT_1",
    "AT_64",
    "ROWS",
    "best_of",
    "gain",
    "judge_league",
    "mean",
    "measure_league",
]

DEFAULT, AT_1, AT_64 = "defaults", "tuned for pass@1", "tuned for pass@64"
ROWS = (DEFAULT, AT_1, AT_64)
RATE = 0.1
"""the learning rate beside the papers' hyper-parameters: a good one for GRPO on these tasks"""
MEASURED = ("pass@1", "pass@64", "kept", "kl", "to 90 %", "sampled", "updates")
RESAMPLES = 2000
BOOTSTRAP = 50
"""stream of random numbers"""


def measure_league(setting: Setting, profile: Profile) -> Tables:
    """Tables "runs" (recipe, row, seed, what was measured) and "tuning" (every configuration)."""
    task = setting.task(range(profile.seeds))
    seeds = range(1000, 1000 + profile.pick(quick=2, full=6))
    trial = Trial.of(setting, seeds)
    tuning: list[Sequence[Cell]] = []
    runs: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, make in recipes.RECIPES.items():
        choices = ({}, *CHOICES[name][: profile.pick(quick=0, full=2)])
        tried = tune(make, choices, setting, trial)
        tuning += [(name, str(config), *scores) for config, scores in tried]
        chosen = {DEFAULT: Config({}, RATE)}
        for place, row in enumerate((AT_1, AT_64)):
            scores = [score[place] for _, score in tried]
            chosen[row] = tried[scores.index(max(scores))][0]
        known: dict[str, dict[str, Tensor]] = {}
        for row, config in chosen.items():
            if str(config) not in known:
                known[str(config)] = run(
                    make, config.options, setting, task, config.rate, points=20
                )
            runs[name, row] = known[str(config)]
    return {
        "runs": Table.of(("recipe", "row", "seed", *MEASURED), _rows(runs, setting, task.seeds)),
        "tuning": Table.of(("recipe", "configuration", "pass@1", "pass@64"), tuning),
    }


def _rows(
    runs: Mapping[tuple[str, str], Mapping[str, Tensor]], setting: Setting, seeds: Tensor
) -> list[Sequence[Cell]]:
    """What is reported of each run; NaN where 90 % of the best reward is never reached."""
    best = max(float(final(history, setting, "reward").mean()) for history in runs.values())
    rows: list[Sequence[Cell]] = []
    for (name, row), history in runs.items():
        numbers = [
            *(final(history, setting, score) for score in setting.scores),
            final(history, setting, "entropy") / history["entropy"][0],
            final(history, setting, "kl"),
            torch.tensor(at_level(history["reward"], history["sampled"], 0.9 * best)),
            final(history, setting, "sampled"),
            final(history, setting, "updates"),
        ]
        columns = zip(*(x.tolist() for x in numbers), strict=True)
        rows += [(name, row, n, *x) for n, x in zip(seeds.tolist(), columns, strict=True)]
    return rows


def mean(tables: Tables, recipe: str, row: str, measure: str) -> Interval:
    """Over seeds; those that never reached 90 % count as having needed the whole budget."""
    runs = tables["runs"].where(recipe=recipe, row=row)
    values = runs.numbers(measure)
    if measure == "to 90 %":
        limits = runs.numbers("sampled")
        values = [
            limit if math.isnan(x) else min(x, limit)
            for x, limit in zip(values, limits, strict=True)
        ]
    return interval(values)


def best_of(tables: Tables, names: Sequence[str], score: str) -> str:
    """The recipe that did best on the tuning seeds."""
    tried = tables["tuning"]
    return max(names, key=lambda name: max(tried.numbers(score, recipe=name)))


def gain(tables: Tables, name: str, other: str, score: str) -> Interval:
    """Of one recipe over another, both tuned for the score, on the seeds reported."""
    row = AT_1 if score == "pass@1" else AT_64
    runs = tables["runs"].where(row=row)
    return paired(runs.numbers(score, recipe=name), runs.numbers(score, recipe=other))


def association(tables: Tables, row: str, score: str) -> Interval:
    """Rank correlation over recipes of entropy kept and a score, and its bootstrap interval."""
    runs = tables["runs"].where(row=row)
    names = [str(name) for name in runs.values("recipe")]
    kept, scored = (
        np.array([runs.numbers(measure, recipe=name) for name in names])
        for measure in ("kept", score)
    )
    count, seeds = kept.shape
    u = uniforms(torch.arange(RESAMPLES), BOOTSTRAP, shape=(count + seeds,)).numpy()
    found = []
    for row_of in u:
        which = (row_of[:count] * count).astype(int)
        when = (row_of[count:] * seeds).astype(int)
        found.append(
            rank_correlation(
                *(values[which][:, when].mean(-1).tolist() for values in (kept, scored))
            )
        )
    # A resample may be one recipe over and over, which has no ranks.
    low, high = np.nanquantile(found, [0.025, 0.975])
    value = rank_correlation(kept.mean(-1).tolist(), scored.mean(-1).tolist())
    return Interval(value, float(low), float(high), seeds)


def judge_league(tables: Tables) -> Sequence[Interval]:
    """Whether entropy goes with performance, and whether control of it pays."""
    controls = [name for name in tables["runs"].values("recipe") if name in CONTROLS]
    return [
        association(tables, AT_1, "pass@1"),
        association(tables, AT_64, "pass@64"),
        *(
            gain(tables, best_of(tables, list(map(str, controls)), score), "grpo", score)
            for score in ("pass@1", "pass@64")
        ),
    ]
