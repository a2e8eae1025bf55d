"""What each training step measured: one CSV row per step, written as it happens."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["COLUMNS", "Records"]

COLUMNS = (
    "step",
    "reward",
    "held_out",
    "entropy",
    "kl_reference",
    "kl_old",
    "clip_fraction",
    "clip_low",
    "clip_high",
    "nonfinite_logp",
    "loss",
    "gradient_norm",
    "updates",
    "length",
    "truncated",
    "sampled",
    "kept",
    "seconds",
)
"""
Columns that every recipe has; what its losses report besides follows them.

step: from 1. reward: share of right answers among all sampled. held_out: the same on problems never
trained on, empty where not measured. entropy: exact mean token entropy of all sampled, nats.
kl_reference: to the reference, the policy after warm-up until the recipe resets it, nats per token,
estimated on all sampled. kl_old: to the policy that sampled, nats per token, mean over optimizer
steps. clip_fraction: tokens whose loss a bound holds; clip_low and clip_high by bound. loss,
gradient_norm: mean over optimizer steps, the norm before it is clipped to 1. length: tokens.
truncated: share. sampled, kept: responses.

Sampled are the policy's own responses, not a teacher's. Where a recipe learns from stored ones they
are those drawn from the store, and kl_reference is the divergence from the reference to the policy.
"""


class Records:
    """The rows of one run, in memory and in a CSV file.

    Args:
        path: the file.
        keep: rows to keep of a file that is there; those of steps after the checkpoint are
            dropped, for they will be done again.
        columns: that stand first; each further name in a row gets a column behind them.
    """

    def __init__(self, path: Path, *, keep: int, columns: Sequence[str] = COLUMNS) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._columns = list(columns)
        if keep and path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    self.rows.append({name: float(text) for name, text in row.items() if text})
            self.rows = [row for row in self.rows if row["step"] <= keep]
        if len(self.rows) != keep:
            raise ValueError(f"{path}: expected at least {keep} rows, found {len(self.rows)}")
        for done in self.rows:
            self._widen(done)
        self._write()

    def append(self, row: dict[str, float]) -> None:
        """Add a row; it is on disk when this returns."""
        self.rows.append(row)
        if self._widen(row):
            self._write()
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(_texts(row))

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a column where it was measured."""
        measured = [row for row in self.rows if name in row]
        return [row["step"] for row in measured], [row[name] for row in measured]

    def _widen(self, row: dict[str, float]) -> bool:
        new = [name for name in row if name not in self._columns]
        self._columns += new
        return bool(new)

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(map(_texts, self.rows))
        os.replace(partial, self.path)


def _texts(row: dict[str, float]) -> dict[str, str]:
    """Whole numbers without a point; others so that they read back to the same bits."""
    return {n: str(int(v)) if float(v).is_integer() else repr(float(v)) for n, v in row.items()}
