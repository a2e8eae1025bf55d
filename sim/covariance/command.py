"""`python -m sim covariance`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sim.covariance import table_files
from sim.covariance.figures import plot_forms, plot_predictions
from sim.covariance.measures import Measurement, measure
from sim.covariance.policies import Point, Sizes, points
from sim.covariance.report import print_forms, print_selectors, print_shares

__all__ = ["covariance"]

INTERRUPTED = 130
FORMS_PLOT = "forms.png"
PREDICTIONS_PLOT = "predictions.png"
LOG_WIDTH = 132
"""Columns where the output is no terminal: a log should not wrap its tables."""
ETA_RANGE = (1e-6, 1.0)
MAX_STEPS = 10_000
DEFAULT_STEPS = "0,20,50,100"
DEFAULT_ETAS = "1e-3,1e-2,1e-1,1"


def parse_steps(text: str) -> str:
    """A check that the option holds numbers of updates."""
    for item in text.split(","):
        if not item.strip().isdecimal() or int(item) > MAX_STEPS:
            raise typer.BadParameter(
                f"expected whole numbers from 0 to {MAX_STEPS}, comma-separated; got {item!r}"
            )
    return text


def parse_etas(text: str) -> str:
    """A check that the option holds step sizes."""
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
    return text


def covariance(
    prompts: Annotated[int, typer.Option(min=1, help="Prompts P.")] = Sizes().prompts,
    group: Annotated[int, typer.Option(min=2, help="Responses to each, G.")] = Sizes().group,
    length: Annotated[int, typer.Option(min=1, help="Tokens of each, T.")] = Sizes().length,
    actions: Annotated[
        int, typer.Option(min=2, help="Actions of every state, A.")
    ] = Sizes().actions,
    steps: Annotated[
        str,
        typer.Option(
            help="Updates after which the run is looked at, comma-separated.", callback=parse_steps
        ),
    ] = DEFAULT_STEPS,
    etas: Annotated[
        str,
        typer.Option(
            help="Step sizes of the single token's step, comma-separated; "
            "the first is that of the tables.",
            callback=parse_etas,
        ),
    ] = DEFAULT_ETAS,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for the CSV files and the plot.", file_okay=False)
    ] = Path("runs/covariance"),
) -> None:
    """The token covariance, its selectors and the STEER forms against each token's entropy change.

    Samples groups of responses from tabular softmax policies, takes the policy-gradient step of
    every token by itself, and compares the exact change of entropy with what the library's
    selection functions make of the token. Interrupting keeps what was finished.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    sizes = Sizes(prompts, group, length, actions)
    updates = sorted({int(item) for item in steps.split(",")})
    step_sizes = list(dict.fromkeys(float(item) for item in etas.split(",")))
    try:
        table_files.create(out)
    except OSError as error:
        raise typer.BadParameter(
            f"expected a folder that can be written; got {error}", param_hint="--out"
        ) from None
    results, last, finished = run_points(console, sizes, updates, step_sizes, seed=seed, out=out)
    if last:
        shown = [result for result in results if result.eta == step_sizes[0]]
        print_forms(console, shown)
        print_shares(console, shown)
        print_selectors(console, shown)
        plot_forms(results, step_sizes[0], out / FORMS_PLOT)
        plot_predictions(last, step_sizes[0], seed, out / PREDICTIONS_PLOT)
        names = (table_files.FORMS_NAME, table_files.SELECTORS_NAME, FORMS_PLOT, PREDICTIONS_PLOT)
        console.print(f"{out}: {', '.join(names)}", highlight=False)
    if not finished:
        console.print("Interrupted: tables, plot and CSV hold the points that were finished.")
        raise typer.Exit(INTERRUPTED)


def run_points(
    console: Console,
    sizes: Sizes,
    updates: list[int],
    etas: list[float],
    *,
    seed: int,
    out: Path,
) -> tuple[list[Measurement], Point | None, bool]:
    """Measure every point, adding to the CSV files. Returns the last and whether all came, too."""
    results: list[Measurement] = []
    last = None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("points", total=2 + 2 * len(updates))
        try:
            for point in points(sizes, updates, seed):
                progress.update(bar, description=point.name)
                measured = list(measure(point, etas, seed))
                for measurement in measured:
                    table_files.append_rows(out, measurement)
                results += measured
                last = point
                progress.advance(bar)
        except KeyboardInterrupt:
            return results, last, False
    return results, last, True
