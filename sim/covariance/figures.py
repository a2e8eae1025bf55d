"""The measurements as figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sim.covariance.changes import FORMS, forecast, true_changes
from sim.covariance.measures import Measurement
from sim.covariance.policies import Point
from sim.plots import COLOURS, panels, save, signed_decades

__all__ = ["plot_forms", "plot_predictions"]

STYLES = dict(zip(FORMS, zip(COLOURS, "os^D", strict=False), strict=True))
SHOWN_TOKENS = 4000


def plot_forms(measurements: Sequence[Measurement], eta: float, path: Path) -> None:
    """Rank correlation and captured share at every point, and the error against the step size."""
    axes = panels(3, width=4.6, height=4.4)
    at_eta = [measurement for measurement in measurements if measurement.eta == eta]
    places = np.arange(len(at_eta))
    names = [measurement.point for measurement in at_eta]
    for index, form in enumerate(FORMS):
        colour, marker = STYLES[form]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "label": form}
        axes[0].plot(places, [m.forms[index].rank_size for m in at_eta], linestyle="none", **style)
        axes[1].plot(places, [m.forms[index].shares[2] for m in at_eta], linestyle="none", **style)
        _errors(axes[2], measurements, index, style)
    for axis, title in (
        (axes[0], "Spearman correlation of |prediction| and |ΔH|"),
        (axes[1], "share of Σ|ΔH| in the top 2 % of tokens"),
    ):
        axis.set_xticks(places, names, rotation=45, ha="right", fontsize="small")
        axis.set_title(f"{title}, η = {eta:g}", fontsize="medium")
    axes[0].set_ylim(None, 1.03)
    axes[1].set_ylim(0.0, None)
    axes[2].set_xscale("log")
    axes[2].set_yscale("log")
    axes[2].set_xlabel("step size η")
    axes[2].set_title("‖ΔH − c·prediction‖/‖ΔH‖, median and range of points", fontsize="medium")
    axes[2].legend(frameon=False, fontsize="small", loc="lower right")
    save(axes[0], path)


def _errors(
    axis: Axes, measurements: Sequence[Measurement], index: int, style: dict[str, Any]
) -> None:
    etas = sorted({measurement.eta for measurement in measurements})
    errors = [[m.forms[index].relative_error for m in measurements if m.eta == eta] for eta in etas]
    axis.plot(etas, [float(np.median(each)) for each in errors], linewidth=1, **style)
    axis.fill_between(
        etas, [min(e) for e in errors], [max(e) for e in errors], alpha=0.15, color=style["color"]
    )


def plot_predictions(point: Point, eta: float, seed: int, path: Path) -> None:
    """ΔH of each token against what each form predicts, in units of the best constant."""
    known, truth = forecast(point, seed), true_changes(point, eta)
    axes = panels(len(FORMS), width=4.2, height=5.2)
    shown = np.linspace(0, len(truth) - 1, min(SHOWN_TOKENS, len(truth))).astype(int)
    extent = 2.0 * float(np.abs(truth).max())
    # ΔH has both signs and spans many decades; the smallest quarter shares the linear middle.
    threshold = float(np.quantile(np.abs(truth), 0.25))
    for axis, form in zip(axes, FORMS, strict=True):
        change = known.changes[form]
        scaled = change * float(change @ truth) / float(change @ change)
        axis.plot([-extent, extent], [-extent, extent], color="0.5", linewidth=1)
        axis.scatter(scaled[shown], truth[shown], s=4, linewidths=0, color=STYLES[form][0])
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
        axis.set_xlabel("c·prediction  (nats)")
        axis.set_title(f"{form}\n{point.name}, η = {eta:g}", fontsize="medium")
    axes[0].set_ylabel("ΔH  (nats)")
    save(axes[0], path)
