"""`python -m sim theorem1`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sim.theorem1 import table_file
from sim.theorem1.bandit import bandit_steps
from sim.theorem1.claims import POOLED_ETA, TableResult, claims_of
from sim.theorem1.figures import plot_orders, plot_predictions
from sim.theorem1.report import (
    print_bandit,
    print_claims,
    print_orders,
    print_sweeps,
    print_token_checks,
)
from sim.theorem1.sweep import Sweep, concatenate, measure
from sim.theorem1.tables import chunks
from sim.theorem1.token_check import TokenCheck

__all__ = ["theorem1"]

INTERRUPTED = 130
CSV_NAME = "measurements.csv"
PREDICTIONS_NAME = "predicted_measured.png"
ORDERS_NAME = "error_order.png"
LOG_WIDTH = 132
"""Columns where the output is no terminal: a log should not wrap its tables."""
ETA_RANGE = (1e-9, 1.0)
MAX_ACTIONS = 2**20
DEFAULT_ACTIONS = "5,151936"
DEFAULT_ETAS = "1e-8,1e-7,1e-6,1e-5,1e-4,1e-3,1e-2,1e-1"


def parse_actions(text: str) -> str:
    """A check that the option holds table widths."""
    for item in text.split(","):
        if not item.strip().isdecimal() or not 2 <= int(item) <= MAX_ACTIONS:
            raise typer.BadParameter(
                f"expected whole numbers from 2 to {MAX_ACTIONS}, comma-separated; got {item!r}"
            )
    return text


def parse_etas(text: str) -> str:
    """A check that the option holds step sizes, enough of them to fit an order."""
    low, high = ETA_RANGE
    for item in text.split(","):
        try:
            inside = low <= float(item) <= high
        except ValueError:
            inside = False
        if not inside:
            raise typer.BadParameter(
                f"expected numbers from {low:g} to {high:g}, comma-separated; got {item!r}"
            )
    distinct = len({float(item) for item in text.split(",")})
    if distinct < 3:
        raise typer.BadParameter(
            f"expected at least 3 different step sizes to fit an order; got {distinct}"
        )
    return text


def theorem1(
    states: Annotated[int, typer.Option(min=1, help="Random policies per table.")] = 100,
    actions: Annotated[
        str,
        typer.Option(
            help="Actions per state, comma-separated: a table each.", callback=parse_actions
        ),
    ] = DEFAULT_ACTIONS,
    seed: Annotated[int, typer.Option(min=0, help="Of policies and returns.")] = 0,
    etas: Annotated[
        str,
        typer.Option(
            help=f"Step sizes, comma-separated; {POOLED_ETA:g} is always among them.",
            callback=parse_etas,
        ),
    ] = DEFAULT_ETAS,
    alignment: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Returns correlate with ln π by up to this, either sign; 0: independent.",
        ),
    ] = 1.0,
    out: Annotated[
        Path, typer.Option(help="Folder for the CSV and the plots.", file_okay=False)
    ] = Path("runs/theorem1"),
) -> None:
    """Entropy change of one exact gradient step, measured against −η Cov_π(ln π, Δz/η).

    Draws tabular softmax policies, takes vanilla (Δz = η π A) and natural (Δz = η A) policy
    gradient steps, and fits the order of the error of the first-order prediction. The exit status
    is 1 if something that must hold does not. Interrupting keeps what was finished.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    sizes = sorted({int(item) for item in actions.split(",")})
    steps = sorted({float(item) for item in etas.split(",")} | {POOLED_ETA})
    try:
        table_file.create(out / CSV_NAME)
    except OSError as error:
        raise typer.BadParameter(
            f"expected a folder that can be written; got {error}", param_hint="--out"
        ) from None
    print_bandit(console, bandit_steps())
    results, finished = run_tables(
        console, sizes, steps, states=states, seed=seed, alignment=alignment, csv=out / CSV_NAME
    )
    if results:
        print_sweeps(console, results)
        print_orders(console, results)
        print_token_checks(console, results)
        plot_predictions(results, out / PREDICTIONS_NAME)
        plot_orders(results, out / ORDERS_NAME)
        claims = claims_of(results)
        print_claims(console, claims)
        console.print(f"{out}: {CSV_NAME}, {PREDICTIONS_NAME}, {ORDERS_NAME}", highlight=False)
    if not finished:
        console.print("Interrupted: tables, plots and CSV hold the states that were finished.")
        raise typer.Exit(INTERRUPTED)
    if not all(claim.holds for claim in claims):
        raise typer.Exit(1)


def run_tables(
    console: Console,
    sizes: list[int],
    etas: list[float],
    *,
    states: int,
    seed: int,
    alignment: float,
    csv: Path,
) -> tuple[list[TableResult], bool]:
    """Measure every table, adding to the CSV as chunks finish. Returns whether all came, too."""
    results: list[TableResult] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("states"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        for size in sizes:
            bar = progress.add_task(f"{states} × {size}", total=states)
            start = time.perf_counter()
            parts: list[list[Sweep]] = []
            check = TokenCheck()
            done = 0
            interrupted = False
            try:
                for chunk in chunks(states, size, seed=seed, alignment=alignment):
                    sweeps = list(measure(chunk, etas))
                    check.update(chunk)
                    for sweep in sweeps:
                        table_file.append_rows(csv, sweep, chunk.first_state)
                    parts.append(sweeps)
                    done += len(chunk.tokens)
                    progress.update(bar, completed=done)
            except KeyboardInterrupt:
                interrupted = True
            if parts:
                whole = [concatenate(kind) for kind in zip(*parts, strict=True)]
                seconds = time.perf_counter() - start
                results.append(TableResult(size, done, whole, check.deviations(), seconds))
            if interrupted:
                return results, False
    return results, True
