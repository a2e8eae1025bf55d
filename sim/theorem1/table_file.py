"""The measurements as a CSV file, written while they are made."""

from __future__ import annotations

import csv
from pathlib import Path

from sim.theorem1.sweep import Sweep

__all__ = ["COLUMNS", "append_rows", "create"]

COLUMNS = (
    "gradient",
    "actions",
    "state",
    "entropy",
    "eta",
    "predicted",
    "measured",
    "error",
    "second_order",
    "by_subtraction",
)
"""Entropy and its changes in nats; second_order is ½η² d²H/dη², what the error should be."""


def create(path: Path) -> None:
    """A new file holding the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(COLUMNS)


def append_rows(path: Path, sweep: Sweep, first_state: int) -> None:
    """One row for each state and step size."""
    predicted, error = sweep.predicted, sweep.error
    second_order = 0.5 * sweep.etas**2 * sweep.curvature[:, None]
    rows = [
        (
            sweep.gradient,
            sweep.actions,
            first_state + row,
            entropy,
            eta,
            float(predicted[row, column]),
            float(sweep.measured[row, column]),
            float(error[row, column]),
            float(second_order[row, column]),
            float(sweep.subtracted[row, column]),
        )
        for row, entropy in enumerate(sweep.entropy.tolist())
        for column, eta in enumerate(sweep.etas.tolist())
    ]
    with path.open("a", newline="") as file:
        csv.writer(file).writerows(rows)
