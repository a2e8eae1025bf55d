"""The measurements as figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from sim.plots import COLOURS, panels, save
from sim.theorem1.claims import NAMES, POOLED_ETA, TableResult
from sim.theorem1.sweep import Sweep, fit_order

__all__ = ["plot_orders", "plot_predictions"]


def plot_predictions(results: Sequence[TableResult], path: Path) -> None:
    """Measured against predicted ΔH of every state, at η = POOLED_ETA and at the largest η."""
    sweeps = [sweep for kind in zip(*(r.sweeps for r in results), strict=True) for sweep in kind]
    axes = panels(len(results), rows=len(sweeps) // len(results))
    for axis, sweep in zip(axes, sweeps, strict=True):
        _scatter(axis, sweep)
    save(axes[0], path)


def _scatter(axis: Axes, sweep: Sweep) -> None:
    chosen = sorted({POOLED_ETA, float(sweep.etas[-1])})
    columns = [int(np.flatnonzero(sweep.etas == eta)[0]) for eta in chosen]
    shown = np.concatenate([sweep.predicted[:, columns], sweep.measured[:, columns]])
    extent = 2.0 * float(np.abs(shown).max())
    # ΔH has both signs and spans many decades; the smallest tenth of them may share the middle.
    threshold = float(np.quantile(np.abs(shown), 0.1))
    line = [-extent, extent]
    axis.plot(line, line, color="0.5", linewidth=1, zorder=1, label="measured = predicted")
    for colour, marker, eta, column in zip(COLOURS, "ox", chosen, columns, strict=False):
        axis.scatter(
            sweep.predicted[:, column],
            sweep.measured[:, column],
            s=22,
            marker=marker,
            linewidths=1,
            facecolors="none" if marker == "o" else colour,
            edgecolors=colour if marker == "o" else None,
            zorder=2,
            label=f"η = {eta:g}",
        )
    axis.set_xscale("symlog", linthresh=threshold)
    axis.set_yscale("symlog", linthresh=threshold)
    axis.set_xlim(-extent, extent)
    axis.set_ylim(-extent, extent)
    axis.set_xlabel("predicted ΔH = −η Cov  (nats)")
    axis.set_ylabel("measured ΔH  (nats)")
    axis.set_title(
        f"{NAMES[sweep.gradient]}, {len(sweep.entropy)} states × {sweep.actions} actions"
    )
    axis.legend(frameon=False, loc="upper left")


def plot_orders(results: Sequence[TableResult], path: Path) -> None:
    """Mean |measured − predicted| against η on log axes, with the fitted order."""
    axes = panels(len(results))
    for axis, result in zip(axes, results, strict=True):
        for colour, sweep in zip(COLOURS, result.sweeps, strict=False):
            fit = fit_order(sweep.etas, sweep.error)
            name = NAMES[sweep.gradient]
            subtracted = np.abs(sweep.subtracted - sweep.predicted).mean(0)
            axis.plot(
                sweep.etas,
                subtracted,
                ":",
                marker=".",
                color=colour,
                alpha=0.5,
                label=f"{name}, two entropies subtracted",
            )
            axis.plot(
                sweep.etas,
                fit.constant * sweep.etas**fit.order,
                color=colour,
                linewidth=1,
                label=f"{name}, fit: order {fit.order:.3f}",
            )
            axis.plot(
                sweep.etas,
                np.abs(sweep.error).mean(0),
                "o",
                markersize=5,
                color=colour,
                label=f"{name}, measured",
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("step size η")
        axis.set_ylabel("mean |measured − predicted ΔH|  (nats)")
        axis.set_title(f"{result.states} states × {result.actions} actions")
        axis.legend(frameon=False, fontsize="small")
    save(axes[0], path)
