"""How near to the memory's speed: a plot of measured rows, `python -m bench.roofline FILE.csv`.

Each pass of our kernels as the share of a pure read or copy of the same bytes that was timed in the
same run, over the bytes that the pass must move. Rows of one problem were measured in turns, so a
share does not depend on how busy the machine was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")

import typer
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import wide_console
from bench.results import PASSES, Result, read_csv

__all__ = ["latest", "plot", "shares"]

OURS = "ours"
# Okabe and Ito's colours, told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = {"float32": "o", "bfloat16": "s", "float16": "^", "float64": "D"}

app = typer.Typer(add_completion=False)


def latest(rows: Sequence[Result]) -> list[Result]:
    """Of each problem and implementation the row that was measured last."""
    newest: dict[tuple[object, ...], Result] = {}
    for row in rows:
        key = (*row.problem, row.implementation)
        if key not in newest or row.date >= newest[key].date:
            newest[key] = row
    return list(newest.values())


def shares(rows: Sequence[Result], direction: str) -> dict[tuple[int, str], list[Result]]:
    """Our rows of a pass by vocabulary and dtype, smallest problem first."""
    found: dict[tuple[int, str], list[Result]] = {}
    for row in rows:
        if row.direction == direction and row.implementation == OURS:
            found.setdefault((row.vocab, row.dtype), []).append(row)
    return {key: sorted(found[key], key=lambda row: row.bytes) for key in sorted(found)}


def plot(rows: Sequence[Result]) -> Figure:
    """A panel per pass; the line at 1 is the memory's own speed.

    Raises:
        ValueError: none of the rows is ours.
    """
    rows = latest(rows)
    present = [direction for direction in PASSES if shares(rows, direction)]
    if not present:
        raise ValueError(f"expected rows of the implementation {OURS!r}; got none")
    figure, axes = plt.subplots(
        1, len(present), figsize=(4.6 * len(present), 4.2), sharey=True, squeeze=False
    )
    vocabularies = sorted({row.vocab for row in rows})
    colours = {v: COLOURS[i % len(COLOURS)] for i, v in enumerate(vocabularies)}
    for axis, direction in zip(axes[0], present, strict=True):
        draw(axis, shares(rows, direction), colours)
        axis.set_title(direction)
    axes[0, 0].set_ylabel("floor's time over ours (1: as fast as memory)")
    axes[0, -1].legend(fontsize="small", loc="lower right")
    first = rows[0]
    figure.suptitle(f"{first.device}, {first.date[:10]}, commit {first.commit or 'unknown'}")
    figure.tight_layout()
    return figure


def draw(axis: Axes, series: dict[tuple[int, str], list[Result]], colours: dict[int, str]) -> None:
    """The series of one pass."""
    floor = next(iter(series.values()))[0].floor
    axis.axhline(1.0, color="black", linewidth=1)
    for (vocab, dtype), rows in series.items():
        axis.plot(
            [row.bytes / 1e6 for row in rows],
            [1 / row.ratio for row in rows],
            color=colours[vocab],
            marker=MARKERS[dtype],
            linestyle="-" if dtype == "float32" else "--",
            label=f"V = {vocab}, {dtype}",
        )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel(f"bytes that must move, 10⁶ (floor: {floor})")
    axis.grid(alpha=0.3)


@app.command()
def main(
    csv: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Rows of bench.")],
    out: Annotated[Path | None, typer.Option(help="Default: beside the rows.")] = None,
) -> None:
    """Plot how near our kernels come to the speed of memory."""
    try:
        figure = plot(read_csv(csv))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="CSV") from None
    path = csv.with_suffix(".png") if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    wide_console().print(f"plot in {path}", highlight=False)


if __name__ == "__main__":
    app()
