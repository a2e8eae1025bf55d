"""Keep Routing: one recipe trained with and without the sampler's routing, and what drifts."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from sim.plots import COLOURS, panels, save
from sim.rlvr.records import Records
from sim.rlvr.run import run

__all__ = ["Drift", "compare_routing"]

TRAININGS = {"free": False, "kept": True}
"""Name of each run, and whether it replays the sampler's routing."""
MOMENTS = ("before", "after")
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Drift:
    """Means over the steps of one training, of one moment of each step."""

    trained: str
    """"free" or "kept" """
    moment: str
    """"before" or "after" the step's updates"""
    rerouted: float
    """share of tokens for which the model would now choose another expert than the sampler"""
    free: float
    """mean |ln π/μ| when the model routes by itself, nats"""
    kept: float
    """the same when the sampler's routing is replayed"""
    free_tail: float
    """99.9 % quantile of |ln π/μ|"""
    kept_tail: float
    free_rerouted: float
    """mean |ln π/μ| of the rerouted tokens; NaN where there were none"""
    kept_rerouted: float


def compare_routing(
    recipe: str, *, out: Path, console: Console | None, fresh: bool, **settings: Any
) -> tuple[list[Drift], Path | None, bool]:
    """Train twice from one warm-up, and write drift.csv and drift.png.

    Either run is continued if it was interrupted.

    Args:
        recipe: by name.
        out: directory; a folder for each training in it.
        console: where progress is shown.
        fresh: discard what the directory holds.
        settings: further arguments of `run`, the same for both.

    Returns:
        Two moments of each training that has a step, the plot, and whether it was interrupted.
    """
    records: dict[str, Records] = {}
    interrupted = False
    if fresh:
        for path in (out / "warmup.pt", *(out / name / recipe / CHECKPOINT for name in TRAININGS)):
            path.unlink(missing_ok=True)
    for trained, keep in TRAININGS.items():
        if console is not None:
            console.print("routing kept" if keep else "router free")
        result = run(
            [recipe],
            out=out / trained,
            warmup_file=out / "warmup.pt",
            keep_routing=keep,
            console=console,
            **settings,
        )
        interrupted = interrupted or result.interrupted
        if result.records[recipe].rows:
            records[trained] = result.records[recipe]
        if interrupted:
            break
    drifts = [_mean(name, when, rows) for name, rows in records.items() for when in MOMENTS]
    if not drifts:
        return drifts, None, interrupted
    with (out / "drift.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(vars(drifts[0])))
        writer.writeheader()
        writer.writerows(vars(drift) for drift in drifts)
    return drifts, _plot(records, out / "drift.png"), interrupted


def _mean(trained: str, moment: str, records: Records) -> Drift:
    def mean(name: str) -> float:
        values = records.column(name)[1]
        return fmean(values) if values else math.nan

    return Drift(
        trained,
        moment,
        rerouted=mean(f"rerouted_{moment}"),
        free=mean(f"drift_{moment}_free"),
        kept=mean(f"drift_{moment}_kept"),
        free_tail=mean(f"drift_{moment}_free_tail"),
        kept_tail=mean(f"drift_{moment}_kept_tail"),
        free_rerouted=mean(f"drift_{moment}_free_rerouted"),
        kept_rerouted=mean(f"drift_{moment}_kept_rerouted"),
    )


def _plot(records: dict[str, Records], path: Path) -> Path:
    """|ln π/μ| and rerouting after the updates of each step, and the reward."""
    axes = panels(2, rows=2, width=5.6, height=3.7)
    labels = (
        "mean |ln π/μ| after a step's updates, nats",
        "the same of tokens that were rerouted, nats",
        "tokens for which an expert changed, share",
        "right answers while training, share",
    )
    for axis, label in zip(axes, labels, strict=True):
        axis.set_xlabel("training step")
        axis.set_ylabel(label)
    for colour, (trained, rows) in zip(COLOURS, records.items(), strict=False):
        for how, line in (("free", "-"), ("kept", "--")):
            label = f"trained {trained}, measured {how}"
            for axis, name in (
                (axes[0], f"drift_after_{how}"),
                (axes[1], f"drift_after_{how}_rerouted"),
            ):
                axis.plot(*rows.column(name), line, color=colour, label=label)
        axes[2].plot(*rows.column("rerouted_after"), color=colour, label=f"trained {trained}")
        axes[3].plot(*rows.column("reward"), color=colour, label=f"trained {trained}")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize="small")
    save(axes[0], path)
    return path
