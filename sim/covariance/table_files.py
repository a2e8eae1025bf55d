"""The measurements as two CSV files, written while they are made."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from sim.covariance.measures import SHARES, FormResult, Measurement, SelectorResult

__all__ = ["FORMS_NAME", "SELECTORS_NAME", "append_rows", "create"]

FORMS_NAME = "forms.csv"
SELECTORS_NAME = "selectors.csv"
POINT_COLUMNS = ("point", "eta", "tokens", "entropy")
SHARE_COLUMNS = tuple(f"share_of_top_{share:g}" for share in SHARES)
FORM_COLUMNS = (*POINT_COLUMNS, *FormResult._fields[:-1], *SHARE_COLUMNS)
SELECTOR_COLUMNS = (
    *POINT_COLUMNS,
    *("picked" if name == "tokens" else name for name in SelectorResult._fields),
)


def create(folder: Path) -> None:
    """New files holding the headers."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / FORMS_NAME, [FORM_COLUMNS], "w")
    _write(folder / SELECTORS_NAME, [SELECTOR_COLUMNS], "w")


def append_rows(folder: Path, measurement: Measurement) -> None:
    """One row for each form, and one for each selector."""
    point = measurement[: len(POINT_COLUMNS)]
    _write(folder / FORMS_NAME, [(*point, *f[:-1], *f.shares) for f in measurement.forms], "a")
    _write(folder / SELECTORS_NAME, [(*point, *s) for s in measurement.selectors], "a")


def _write(path: Path, rows: Iterable[tuple[object, ...]], mode: str) -> None:
    with path.open(mode, newline="") as file:
        csv.writer(file).writerows(rows)
