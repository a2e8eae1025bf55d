"""What all figures share: one look, and PNG files without a display."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["COLOURS", "panels", "save", "signed_decades"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, told apart by colour-blind readers and in grey."""


def panels(columns: int, *, rows: int = 1, width: float = 5.4, height: float = 4.4) -> list[Axes]:
    """A figure of rows × columns axes, row by row, each width × height inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(rows * columns)]
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return axes


def save(axes: Axes, path: Path) -> None:
    """Write the figure the axes belong to as PNG, 150 dots per inch."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def signed_decades(threshold: float, extent: float) -> list[float]:
    """0 and at most three powers of ten to either side, clear of the linear middle."""
    lowest, highest = math.ceil(math.log10(threshold) + 0.3), math.floor(math.log10(extent))
    stride = max(1, math.ceil((highest - lowest + 1) / 3))
    powers = [10.0**exponent for exponent in range(highest, lowest - 1, -stride)]
    return [-power for power in powers] + [0.0] + powers[::-1]
