"""The CPU speed that the project promises, measured: `python -m bench --check`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.candidates import Shape
from bench.grid import run
from bench.results import Result, read_csv
from bench.selection_bench import SelectionResult
from entropy_ext import backend_info

__all__ = [
    "SELECTION_TOKENS",
    "Bar",
    "bars",
    "isa_results",
    "print_bars",
    "reference_results",
    "selection_bars",
]

ROWS, VOCAB = 512, 151936
SELECTION_TOKENS = 1 << 20
PROMISED_SELECTORS = ("clip_cov", "kl_cov", "top_entropy", "top_entropy, quantile")
KERNEL_REPEATS = 31
WHOLE_REPEATS = 7
# Page counters are exact to a few hundred kilobytes (bench/memory.py). What grows with the logits
# would be 311 MB here, or 156 MB in bfloat16.
COUNTER_SLACK_MB = 1.0
BYTES_PER_ROW = 64


@dataclass(frozen=True)
class Bar:
    """One promise: a measured number and its limit."""

    promise: str
    measured: float
    limit: float
    unit: str
    at_least: bool = False
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the number keeps the limit. NaN, a number that was not measured, does not."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def reference_results() -> Iterator[list[Result]]:
    """Measure the shapes that the promises are about."""
    cpu = torch.device("cpu")
    for dtype in ("float32", "bfloat16"):
        shapes = [Shape(ROWS, VOCAB, dtype)]
        kernels = ("ours", "ours+extras", "ours+support")
        yield from run(
            shapes,
            device=cpu,
            repeats=KERNEL_REPEATS,
            only=kernels,
            directions=("forward", "backward"),
        )
        whole = ("ours", "eager", "compile")
        yield from run(
            shapes,
            device=cpu,
            repeats=WHOLE_REPEATS,
            only=whole,
            directions=("forward+backward",),
            budget_s=float("inf"),
        )


def isa_results(isas: Sequence[str]) -> dict[str, list[Result]]:
    """Measure our kernels in processes that force an instruction set each.

    Returns:
        isa → rows; empty where the CPU, or ENTROPY_EXT_ISA, does not allow all of them.
    """
    if backend_info()["cpu_isa"] != max(isas):
        return {}
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        for isa in isas:
            csv = Path(directory) / f"{isa}.csv"
            options = {
                "--rows": str(ROWS),
                "--vocab": str(VOCAB),
                "--only": "ours",
                "--direction": "forward,backward",
                "--device": "cpu",
                "--threads": str(torch.get_num_threads()),
                "--repeats": str(KERNEL_REPEATS),
                "--csv": str(csv),
            }
            command = [
                sys.executable,
                "-m",
                "bench",
                *(word for pair in options.items() for word in pair),
            ]
            environment = os.environ | {"ENTROPY_EXT_ISA": isa}
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            results[isa] = read_csv(csv)
    return results


def bars(results: Sequence[Result], by_isa: dict[str, list[Result]]) -> list[Bar]:
    """Hold measured rows against the promises.

    Args:
        results: what reference_results yields.
        by_isa: what isa_results returns; when empty, its promises are left out.
    """

    def one(dtype: str, direction: str, implementation: str, among: Sequence[Result]) -> Result:
        (result,) = (
            row
            for row in among
            if (row.dtype, row.direction, row.implementation) == (dtype, direction, implementation)
        )
        return result

    promises = []
    for dtype, direction, limit in (
        ("float32", "forward", 1.3),
        ("float32", "backward", 1.2),
        ("bfloat16", "forward", 2.8),
        ("bfloat16", "backward", 2.0),
    ):
        row = one(dtype, direction, "ours", results)
        promises.append(Bar(f"{direction} {dtype}", row.ratio, limit, f"× {row.floor}"))

    for dtype in ("float32", "bfloat16"):
        whole = {
            name: one(dtype, "forward+backward", name, results).ms
            for name in ("ours", "compile", "eager")
        }
        promises.append(
            Bar(
                f"forward+backward {dtype}, faster than torch.compile",
                whole["compile"] / whole["ours"],
                5.0,
                "×",
                at_least=True,
                note=f"eager: {whole['eager'] / whole['ours']:.1f} ×",
            )
        )
        plain, extras = (one(dtype, "forward", name, results) for name in ("ours", "ours+extras"))
        promises.append(Bar(f"all extras {dtype}", extras.ms / plain.ms, 1.25, "× none"))
        for direction in ("forward", "backward"):
            none, kept = (one(dtype, direction, n, results) for n in ("ours", "ours+support"))
            cost = kept.ms / none.ms
            promises.append(Bar(f"support, {direction} {dtype}", cost, 1.1, "× none"))
        promises.append(
            Bar(
                f"extra memory of the forward {dtype}",
                plain.extra_mb,
                COUNTER_SLACK_MB + BYTES_PER_ROW * plain.rows / 1e6,
                "MB",
                note=f"logits: {plain.bytes / 1e6:.0f} MB",
            )
        )
        for direction in ("forward", "backward") if by_isa else ():
            # Each process has its own floor: comparing ratios takes the machine's mood out.
            v3, v4 = (one(dtype, direction, "ours", by_isa[isa]) for isa in ("v3", "v4"))
            promises.append(Bar(f"{direction} {dtype}, v3", v3.ratio / v4.ratio, 2.0, "× v4"))
    return promises


def selection_bars(results: Sequence[SelectionResult]) -> list[Bar]:
    """Every selector against the eager formula that it replaces, on SELECTION_TOKENS tokens."""
    return [
        Bar(
            f"{row.selector}, faster than eager",
            row.speedup,
            3.0,
            "×",
            at_least=True,
            note=f"{row.ms:.2f} ms",
        )
        for row in results
        if row.implementation == "ours" and row.selector in PROMISED_SELECTORS
    ]


def print_bars(
    console: Console, promises: Sequence[Bar], title: str = f"[{ROWS}, {VOCAB}]"
) -> None:
    """The promises as a table."""
    table = Table(title=title, title_justify="left")
    for heading, justify in (("promise", "left"), ("measured", "right"), ("limit", "right")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    for heading in ("", "holds", "note"):
        table.add_column(heading)
    for bar in promises:
        table.add_row(
            bar.promise,
            f"{bar.measured:.2f}",
            f"{'≥' if bar.at_least else '≤'} {bar.limit:.2f}",
            bar.unit,
            "[green]yes" if bar.holds else "[red]no",
            bar.note,
        )
    console.print(table)
