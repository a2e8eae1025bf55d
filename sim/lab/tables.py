"""Numbers as rows under named columns: what an experiment returns, stores and shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from torch import Tensor

__all__ = ["Cell", "Table", "Tables", "joined", "named", "part"]

Cell: TypeAlias = str | int | float
Key = TypeVar("Key", bound="tuple[Cell, ...]")


@dataclass(frozen=True)
class Table:
    """Rows under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row: expected {len(self.columns)} cells, got {row}")

    def where(self, **equal: Cell) -> Table:
        """The rows whose cells are equal to these."""
        places = {self.columns.index(name): cell for name, cell in equal.items()}
        return Table(
            self.columns,
            tuple(row for row in self.rows if all(row[i] == c for i, c in places.items())),
        )

    def column(self, name: str) -> list[Cell]:
        """The cells of a column."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def numbers(self, name: str, **equal: Cell) -> list[float]:
        """A column of numbers, of the rows where cells are equal to these.

        Raises:
            KeyError: there are no such rows.
        """
        found = self.where(**equal).column(name)
        if not found:
            raise KeyError(f"no rows with {equal}")
        return [float(cell) for cell in found]

    def each_seed(self, name: str, **equal: Cell) -> list[list[float]]:
        """`numbers` of the rows of one seed and the next, by the column "seed"."""
        rows = self.where(**equal)
        return [rows.numbers(name, seed=seed) for seed in rows.values("seed")]

    def values(self, name: str) -> list[Cell]:
        """The different cells of a column, in order of first appearance."""
        return list(dict.fromkeys(self.column(name)))

    def csv(self) -> str:
        """As a CSV file; numbers read back to the same bits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()

    @classmethod
    def of(cls, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
        """From any sequences."""
        return cls(tuple(columns), tuple(tuple(row) for row in rows))

    @classmethod
    def by_seed(cls, columns: Sequence[str], values: Mapping[Key, Tensor]) -> Table:
        """Rows (*key, seed, value) from key → [N]; seeds by their place."""
        return cls.of(
            columns,
            [(*key, n, x) for key, each in values.items() for n, x in enumerate(each.tolist())],
        )


Tables: TypeAlias = dict[str, Table]


def named(name: str, tables: Tables) -> Tables:
    """Tables of one of several parts, under names that tell; `part` undoes it."""
    return {f"{name}: {table}": value for table, value in tables.items()}


def part(tables: Tables, name: str) -> Tables:
    """The tables that were `named` so, under their own names."""
    start = f"{name}: "
    return {k.removeprefix(start): table for k, table in tables.items() if k.startswith(start)}


def joined(parts: Iterable[Tables]) -> Tables:
    """The rows of tables of one name, one part after the other."""
    found: Tables = {}
    for tables in parts:
        for name, table in tables.items():
            before = found[name].rows if name in found else ()
            found[name] = Table(table.columns, before + table.rows)
    return found
