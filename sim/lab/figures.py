"""Plots that most experiments share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from sim.lab.statistics import Interval, interval
from sim.lab.tables import Cell, Table, Tables
from sim.plots import COLOURS, panels

__all__ = [
    "LABELS",
    "STYLES",
    "against",
    "biases",
    "curves",
    "error_bars",
    "legend",
    "lines",
    "one_seed",
    "panel",
    "rule",
    "style",
]

LABELS = {
    "entropy": "token entropy, nats",
    "sequence_entropy": "entropy of responses, nats",
    "reward": "expected reward",
    "held_out": "pass@1 on held-out prompts",
    "kl": "KL to the start, nats per response",
    "length": "expected length, tokens",
    "length_right": "length of right responses, tokens",
    "length_wrong": "length of wrong responses, tokens",
    "clip_low": "tokens held by the lower bound, share",
    "clip_high": "tokens held by the upper bound, share",
    "kept": "responses learnt from, share",
    **{f"pass@{k}": f"pass@{k}" for k in (1, 4, 16, 64, 256)},
}
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
"""With the colour, so that a grey print tells the lines apart, too."""


def style(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th line."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": STYLES[index % len(STYLES)],
        "linewidth": 1.8,
    }


def curves(
    tables: Tables,
    measures: Sequence[str | None],
    *,
    labels: Mapping[str, str] | None = None,
    arms: Sequence[str] | None = None,
    xlabel: str = "training step",
) -> Axes:
    """One panel for each measure, one line for each arm, its band the 95 % interval over seeds.

    The panel of a measure None stays empty, for the experiment to draw; see `panel`.
    """
    axes = panels(len(measures), width=4.2, height=3.5)
    for axis, measure in zip(axes, measures, strict=True):
        if measure is None:
            continue
        lines(axis, tables, measure, arms=arms)
        axis.set_xlabel(xlabel)
        axis.set_ylabel({**LABELS, **(labels or {})}[measure])
    if measures[0] is not None:
        legend(axes[0])
    return axes[0]


def panel(axis: Axes, place: int) -> Axes:
    """Another panel of the axis's figure, from 0 on; −1 is the last."""
    figure = axis.get_figure(root=True)
    assert figure is not None
    return figure.axes[place]


def legend(*axes: Axes) -> None:
    """The legend of each panel, small and without a frame."""
    for axis in axes:
        axis.legend(frameon=False, fontsize="small")


def rule(axis: Axes, value: float, **look: Any) -> None:
    """A horizontal line at a value to compare with, as a target or no change; look as in plot."""
    axis.axhline(value, **{"color": "0.3", "linewidth": 1, **look})


def error_bars(axis: Axes, places: Sequence[float], found: Sequence[Interval], **look: Any) -> None:
    """Means with their 95 % intervals; look as in `Axes.errorbar`."""
    half = [one.high - one.value for one in found]
    axis.errorbar(places, [one.value for one in found], yerr=half, **look)


def lines(axis: Axes, tables: Tables, measure: str, *, arms: Sequence[str] | None = None) -> None:
    """A measure along training: one line for each arm, its band the 95 % interval over seeds."""
    table = tables["curves"]
    for index, arm in enumerate(arms or map(str, table.values("arm"))):
        rows, look = table.where(arm=arm, measure=measure), style(index)
        steps = rows.numbers("step")
        axis.plot(steps, rows.numbers("mean"), label=arm, **look)
        axis.fill_between(
            steps,
            rows.numbers("low"),
            rows.numbers("high"),
            color=look["color"],
            alpha=0.18,
            linewidth=0,
        )
    axis.set(xlabel="training step", ylabel=LABELS.get(measure, measure))
    axis.set_xlim(left=0)


def one_seed(axis: Axes, runs: Table, measure: str) -> None:
    """A measure along the runs of the first seed, one line for each arm: what means may hide."""
    rows = runs.where(seed=runs.values("seed")[0])
    for index, arm in enumerate(map(str, runs.values("arm"))):
        run = rows.where(arm=arm)
        axis.plot(run.numbers("step"), run.numbers(measure), label=arm, **style(index))
    axis.set(xlabel="training step", ylabel=LABELS.get(measure, measure))
    axis.set_xlim(left=0)


def against(
    axis: Axes, tables: Tables, x: str, y: str, *, arms: Sequence[str] | None = None
) -> None:
    """One mean over seeds against another along training, so that speed does not show."""
    table = tables["curves"]
    for index, arm in enumerate(arms or map(str, table.values("arm"))):
        rows = table.where(arm=arm)
        means = (rows.numbers("mean", measure=measure) for measure in (x, y))
        axis.plot(*means, label=arm, **style(index))
    axis.set(xlabel=LABELS.get(x, x), ylabel=LABELS.get(y, y))


def biases(
    axis: Axes, table: Table, distance: str, error: str, *, lines: Mapping[str, Mapping[str, Cell]]
) -> None:
    """Mean over seeds of an error at growing distance, both on a logarithmic scale.

    Args:
        axis: to draw on.
        table: with a row for each distance and seed.
        distance, error: its columns.
        lines: label → the cells that its rows have in common.
    """
    for index, (label, equal) in enumerate(lines.items()):
        rows = table.where(**equal)
        places = list(map(float, rows.values(distance)))
        means = [interval(rows.numbers(error, **{distance: x})).value for x in places]
        axis.plot(places, means, marker="osD^"[index], label=label, **style(index))
    axis.set(xscale="log", yscale="log")
