"""`python -m sim run NAME`, `python -m sim report`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sim.lab import report as reports
from sim.lab.experiment import FULL, QUICK, Experiment
from sim.lab.experiments import EXPERIMENTS
from sim.lab.league_view import markdown
from sim.lab.runner import run as run_experiments
from sim.lab.store import Corrupt, Result, Store

__all__ = ["league", "list_experiments", "report", "run"]

INTERRUPTED = 130
CORES = os.cpu_count() or 1

Quick = Annotated[bool, typer.Option("--quick", help="Short runs, 20 seeds.")]
Jobs = Annotated[int, typer.Option(min=1, help="Worker processes, one thread each.")]
Stale = Annotated[bool, typer.Option("--stale", help="Take results of older code as they are.")]
Out = Annotated[Path, typer.Option(help="Folder of the page and the results.", file_okay=False)]


def run(
    name: Annotated[str, typer.Argument(help="An experiment; see python -m sim --list.")],
    quick: Quick = False,
    out: Out = Path("runs/report"),
) -> None:
    """Run one experiment anew and say what it found."""
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        raise typer.BadParameter(f"expected one of {known}; got {name!r}", param_hint="NAME")
    store = _store(out, quick)
    _run([EXPERIMENTS[name]], store, jobs=1, anew=True, page=out / f"{name}.html")


def report(
    quick: Quick = False,
    jobs: Jobs = CORES,
    stale: Stale = False,
    out: Out = Path("runs/report"),
) -> None:
    """Run every experiment that has no result yet, and write one page about all of them.

    Interrupted, it goes on where it stopped. A result counts as long as the code it came from, the
    library's included, is what it was.
    """
    store = _store(out, quick)
    _run(list(EXPERIMENTS.values()), store, jobs=jobs, stale=stale, page=out / "index.html")


def league(quick: Quick = False, out: Out = Path("runs/report")) -> None:
    """Print the league's tables from the results of the last report, in Markdown."""
    store = _store(out, quick)
    members = [experiment for experiment in EXPERIMENTS.values() if experiment.standings]
    for experiment in members:
        try:
            result = store.load(experiment.name)
        except Corrupt as error:
            raise typer.BadParameter(str(error), param_hint="--out") from None
        if result is None:
            raise typer.BadParameter(
                f"expected a result of {experiment.name}: python -m sim report makes it",
                param_hint="--out",
            )
        typer.echo(f"## {experiment.title}\n\n{markdown(result.tables)}")


def list_experiments() -> None:
    """Print the experiments: name, title, claim."""
    table = Table(title="python -m sim run NAME", title_justify="left")
    for heading in ("name", "title", "claim"):
        table.add_column(heading)
    for experiment in EXPERIMENTS.values():
        table.add_row(experiment.name, experiment.title, experiment.claim)
    Console().print(table)


def _store(out: Path, quick: bool) -> Store:
    profile = QUICK if quick else FULL
    try:
        return Store(out / "results", profile)
    except OSError as error:
        raise typer.BadParameter(
            f"expected a folder that can be written; got {error}", param_hint="--out"
        ) from None


def _run(
    experiments: Sequence[Experiment],
    store: Store,
    *,
    jobs: int,
    page: Path,
    stale: bool = False,
    anew: bool = False,
) -> None:
    console = Console()
    try:
        results, failures = run_experiments(
            experiments, store, console, jobs=jobs, stale=stale, anew=anew
        )
    except KeyboardInterrupt:
        console.print("Interrupted: what was finished is kept; run the same command to go on.")
        raise typer.Exit(INTERRUPTED) from None
    except Corrupt as error:
        console.print(f"[bold red]corrupt:[/] {error}; delete it to start its record anew")
        raise typer.Exit(1) from None
    _print(console, experiments, results)
    reports.write(page, experiments, store, results, failures)
    console.print(f"{page}: open it in a browser", highlight=False)
    if failures:
        raise typer.Exit(1)


def _print(
    console: Console, experiments: Sequence[Experiment], results: Mapping[str, Result]
) -> None:
    table = Table()
    for heading in ("experiment", "criterion", "wanted", "measured, 95 % interval", "seen"):
        table.add_column(heading, overflow="fold")
    for experiment in experiments:
        if experiment.name not in results:
            continue
        findings = experiment.findings(results[experiment.name].tables)
        verdict = experiment.verdict(findings)
        table.add_section()
        for place, (criterion, measured) in enumerate(findings):
            holds = "[green]yes[/]" if criterion.holds(measured) else "[bold red]no[/]"
            label = f"{experiment.title}: [bold]{verdict}[/]" if place == 0 else ""
            table.add_row(label, criterion.text, criterion.wanted, str(measured), holds)
    console.print(table)
