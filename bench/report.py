"""Results as tables for people."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from bench.environment import Environment
from bench.results import Result

__all__ = [
    "milliseconds",
    "number",
    "print_environment",
    "print_results",
    "warn_if_busy",
    "wide_console",
]

LOG_WIDTH = 132
"""Columns where the output is no terminal: a log should not wrap its tables."""
BUSY_LOAD = 0.5
"""Running programs per processor, over the last minute, from which a machine counts as busy."""

FORMULAS = {
    "forward": "N·V·size: read the logits",
    "backward": "2·N·V·size: read the logits, write their gradient",
    "forward+backward": "3·N·V·size: read, then read and write",
}


def wide_console() -> Console:
    """A console as wide as the terminal, or as LOG_WIDTH."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def print_environment(console: Console, result: Result | Environment) -> None:
    """One line about machine and versions."""
    cuda = f" · CUDA {result.cuda}" if result.cuda else ""
    console.print(
        f"{result.device} · {result.threads} threads · CPU kernels {result.isa} · "
        f"torch {result.torch}{cuda} · commit {result.commit or 'unknown'} · {result.date}",
        style="dim",
        highlight=False,
    )


def warn_if_busy(console: Console) -> None:
    """Say so when other programs compete for the processors, for then no CPU time means much."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY_LOAD * processors:
        console.print(
            f"Other work is running here (load {load:.1f} on {processors} processors): "
            "CPU times of this run are unreliable.",
            style="yellow",
        )


def print_results(console: Console, results: Sequence[Result]) -> None:
    """One table for each problem, in the order measured."""
    for _, rows in groupby(results, key=lambda result: result.problem):
        console.print(table_of(list(rows)))


def table_of(results: Sequence[Result]) -> Table:
    """The implementations of one problem, next to its floors."""
    first = results[0]
    table = Table(
        title=f"{first.direction}  [{first.rows}, {first.vocab}] {first.dtype}",
        caption=f"bytes = {FORMULAS[first.direction]}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("implementation")
    for heading in ("ms", "p20–p80", "MB", "GB/s", f"× {first.floor}", "extra MB", "first s"):
        table.add_column(heading, justify="right")
    table.add_column("note")
    for result in results:
        table.add_row(
            result.implementation,
            milliseconds(result.ms),
            f"{milliseconds(result.ms_p20)}–{milliseconds(result.ms_p80)}",
            number(result.bytes / 1e6, 1),
            number(result.gb_s, 1),
            number(result.ratio, 2),
            number(result.extra_mb, 1),
            number(result.first_s, 2),
            result.note,
            style="bold" if result.implementation.startswith("ours") else None,
        )
    return table


def milliseconds(value: float) -> str:
    """Fixed-point, to the microsecond below ten milliseconds."""
    return number(value, 3 if value < 10 else 2)


def number(value: float, digits: int) -> str:
    """Fixed-point, a dash for what was not measured."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
