"""The measurements as figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from sim.plots import COLOURS, panels, save, signed_decades
from sim.theorem1.claims import NAMES, POOLED_ETA, TableResult
from sim.theorem1.sweep import Sweep, fit_order

__all__ = ["plot_orders", "plot_predictions"]


def plot_predictions(results: Sequence[TableResult], path: Path) -> None:
    """Measured against predicted ΔH of every state, at η = POOLED_ETA and at the largest η."""
    sweeps = [sweep for kind in zip(*(r.sweeps for r in results), strict=True) for sweep in kind]
    axes = panels(len(results), rows=len(sweeps) // len(results), width=4.8, height=5.0)
    for axis, sweep in zip(axes, sweeps, strict=True):
        _scatter(axis, sweep)
    save(axes[0], path)


def _scatter(axis: Axes, sweep: Sweep) -> None:
    etas = sorted({POOLED_ETA, float(sweep.etas[-1])})
    columns = [sweep.column(eta) for eta in etas]
    shown = np.abs(np.concatenate([sweep.predicted[:, columns], sweep.measured[:, columns]]))
    extent = 2.0 * float(shown.max())
    axis.plot(
        [-extent, extent], [-extent, extent], color="0.5", linewidth=1, label="measured = predicted"
    )
    for colour, marker, eta, column in zip(COLOURS, "+x", etas, columns, strict=False):
        axis.scatter(
            sweep.predicted[:, column],
            sweep.measured[:, column],
            s=26,
            marker=marker,
            linewidths=1,
            color=colour,
            label=f"η = {eta:g}",
        )
    # ΔH has both signs and spans many decades; the smallest tenth may share the linear middle.
    threshold = float(np.quantile(shown, 0.1))
    ticks = signed_decades(threshold, extent)
    axis.set_xscale("symlog", linthresh=threshold)
    axis.set_yscale("symlog", linthresh=threshold)
    axis.set_xticks(ticks)
    axis.set_yticks(ticks)
    axis.set_xlim(-extent, extent)
    axis.set_ylim(-extent, extent)
    axis.minorticks_off()
    axis.tick_params(axis="x", labelrotation=45)
    axis.set_box_aspect(1)
    axis.set_xlabel("predicted ΔH = −η Cov  (nats)")
    axis.set_ylabel("measured ΔH  (nats)")
    axis.set_title(f"{NAMES[sweep.gradient]}, {_size(sweep)}")
    axis.legend(frameon=False, loc="upper left")


def _size(sweep: Sweep) -> str:
    return f"{len(sweep.entropy)} states × {sweep.actions} actions"


def plot_orders(results: Sequence[TableResult], path: Path) -> None:
    """Mean |measured − predicted| against η on log axes, with the fitted order."""
    axes = panels(len(results))
    for axis, result in zip(axes, results, strict=True):
        for colour, marker, sweep in zip(COLOURS, "os", result.sweeps, strict=False):
            fit = fit_order(sweep.etas, sweep.error)
            name = NAMES[sweep.gradient]
            axis.plot(
                sweep.etas,
                np.abs(sweep.error).mean(0),
                marker,
                markersize=5,
                color=colour,
                label=f"{name}: measured without subtraction",
            )
            axis.plot(
                sweep.etas,
                fit.constant * sweep.etas**fit.order,
                color=colour,
                linewidth=1,
                label=f"{name}: fit, order {fit.order:.3f}",
            )
            axis.plot(
                sweep.etas,
                np.abs(sweep.subtracted - sweep.predicted).mean(0),
                ":",
                marker=marker,
                markersize=3,
                markerfacecolor="white",
                color=colour,
                alpha=0.7,
                zorder=1,
                label=f"{name}: measured as H(π′) − H(π)",
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("step size η")
        axis.set_ylabel("mean |measured − predicted ΔH|  (nats)")
        axis.set_title(_size(result.sweeps[0]))
        axis.legend(frameon=False, fontsize="small")
    save(axes[0], path)
