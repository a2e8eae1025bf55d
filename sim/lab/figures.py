"""Plots that most experiments share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from sim.lab.tables import Tables
from sim.plots import COLOURS, panels

__all__ = ["LABELS", "STYLES", "curves", "lines", "style"]

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
    measures: Sequence[str],
    *,
    labels: Mapping[str, str] | None = None,
    arms: Sequence[str] | None = None,
    xlabel: str = "training step",
) -> Axes:
    """One panel for each measure, one line for each arm, its band the 95 % interval over seeds."""
    axes = panels(len(measures), width=4.2, height=3.5)
    for axis, measure in zip(axes, measures, strict=True):
        lines(axis, tables, measure, arms=arms)
        axis.set_xlabel(xlabel)
        axis.set_ylabel({**LABELS, **(labels or {})}[measure])
    axes[0].legend(frameon=False, fontsize="small")
    return axes[0]


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
