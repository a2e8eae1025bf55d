"""Curves of a comparison as SVG: a line per recipe, a band over seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes

from sim.plots import COLOURS, panels
from sim.rlvr.compare_results import Band, Run, TaskResults, band, pass_band

__all__ = ["curves", "style_of"]

DASHES = ("-", "--", ":", "-.")

TRAINING = (
    ("entropy", "mean token entropy, nats"),
    ("reward", "right answers while training, share"),
    ("kl_reference", "KL to the policy at the start, nats per token"),
)


def style_of(index: int) -> tuple[str, str]:
    """Colour and dashes of the recipe at that place; no two alike below 24."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def curves(results: TaskResults, styles: Mapping[str, tuple[str, str]]) -> str:
    """Entropy, reward, divergence and pass@k of one task, as an SVG element.

    Args:
        results: at least one run.
        styles: recipe → colour and dashes.
    """
    axes = panels(2, rows=2, width=5.6, height=3.6)
    for axis, (column, label) in zip(axes, TRAINING, strict=False):
        for name, runs in results.runs.items():
            _draw(axis, band(runs, column), styles[name], name)
        axis.set_xlabel("training step")
        axis.set_ylabel(label)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    _pass_at_k(axes[3], results.starts, results.runs, styles)
    axes[0].legend(frameon=False, fontsize="small")
    return _svg(axes[0], results.task)


def _pass_at_k(
    axis: Axes,
    starts: Sequence[dict[str, object]],
    runs: Mapping[str, list[Run]],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    before = pass_band(starts)
    _draw(axis, before, ("#555555", "-"), "before training", marker="s")
    for name, each in runs.items():
        _draw(axis, pass_band([run.final for run in each]), styles[name], name, marker="o")
    axis.set_xscale("log", base=2)
    axis.set_xticks(before.at, [f"{k:.0f}" for k in before.at])
    axis.set_xlabel("k, samples per held-out problem")
    axis.set_ylabel("pass@k after training, share")
    axis.set_ylim(top=1)
    axis.legend(axis.lines[:1], ["before training"], frameon=False, fontsize="small")


def _draw(
    axis: Axes, drawn: Band, style: tuple[str, str], name: str, marker: str | None = None
) -> None:
    colour, dashes = style
    axis.fill_between(drawn.at, drawn.low, drawn.high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(
        drawn.at,
        drawn.mean,
        color=colour,
        linestyle=dashes,
        linewidth=1.8,
        marker=marker,
        markersize=4,
        label=name,
    )


def _svg(axis: Axes, task: str) -> str:
    figure = axis.get_figure(root=True)
    assert figure is not None
    text = io.StringIO()
    # Neither a date nor random ids: the same numbers give the same page. The task keeps the ids
    # of two figures on one page apart.
    with mpl.rc_context({"svg.hashsalt": task, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
