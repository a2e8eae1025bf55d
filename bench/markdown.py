"""The tables of docs/performance.md from a CSV: `python -m bench.markdown bench/results/X.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from bench.report import milliseconds, number
from bench.results import Result, read_csv
from bench.selection_bench import SelectionResult, read_rows

__all__ = ["markdown", "selection_markdown"]

FLOOR_NAMES = ("read", "copy")


def markdown(results: Sequence[Result]) -> str:
    """One table for each shape and pass, with the machine above the first.

    Of several measurements of the same row the last counts.
    """
    latest = {(*result.problem, result.implementation): result for result in results}
    rows = sorted(latest.values(), key=lambda result: result.problem)
    first = rows[0]
    lines = [
        f"{first.device}, {first.threads} threads, CPU kernels {first.isa}, torch {first.torch}, "
        f"commit {first.commit}, {first.date[:10]}."
    ]
    for (count, vocab, dtype, direction), group in groupby(rows, key=lambda row: row.problem):
        each = list(group)
        lines += [
            "",
            f"**{direction}, [{count}, {vocab}] {dtype}**",
            "",
            f"| implementation | ms | GB/s | × {each[0].floor} | extra MB | first call s |",
            "|---|---|---|---|---|---|",
        ]
        for row in sorted(each, key=lambda row: (row.implementation not in FLOOR_NAMES, row.ms)):
            cells = (
                row.implementation,
                milliseconds(row.ms),
                number(row.gb_s, 1),
                number(row.ratio, 2),
                number(row.extra_mb, 1),
                number(row.first_s, 2),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def selection_markdown(results: Sequence[SelectionResult]) -> str:
    """One table for each number of tokens, ours beside the eager formula; the last rows count."""
    latest = {(row.tokens, row.selector, row.implementation): row for row in results}
    first = next(iter(latest.values()))
    lines = [
        f"{first.device}, {first.threads} threads, CPU kernels {first.isa}, torch {first.torch}, "
        f"commit {first.commit}, {first.date[:10]}."
    ]
    for tokens in sorted({row.tokens for row in latest.values()}):
        lines += [
            "",
            f"**{tokens} tokens, float32**",
            "",
            "| selector | ms | eager ms | × eager | launches / eager | host waits / eager |",
            "|---|---|---|---|---|---|",
        ]
        for (count, selector, implementation), ours in latest.items():
            if count != tokens or implementation != "ours":
                continue
            eager = latest[tokens, selector, "eager"]
            cells = (
                selector,
                milliseconds(ours.ms),
                milliseconds(eager.ms),
                number(ours.speedup, 1),
                f"{ours.launches} / {eager.launches}",
                f"{ours.host_syncs} / {eager.host_syncs}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(csv: Annotated[Path, typer.Argument(help="A file that python -m bench wrote.")]) -> None:
    """Print the tables."""
    with csv.open() as file:
        of_selection = "selector" in file.readline().split(",")
    typer.echo(selection_markdown(read_rows(csv)) if of_selection else markdown(read_csv(csv)))


if __name__ == "__main__":
    typer.run(main)
