"""Selection against the eager formulas that it replaces: `python -m bench.selection_bench`."""

from __future__ import annotations

import csv as csv_files
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.environment import environment
from bench.report import milliseconds, print_environment, warn_if_busy, wide_console
from bench.selection_baselines import Cost, cost_of
from bench.selection_candidates import SELECTORS, make_tokens
from bench.timing import Call, Stopwatch, cpu_stopwatch, cuda_stopwatch, no_wait, round_robin

__all__ = ["TOKENS", "SelectionResult", "measure", "read_rows", "run"]

TOKENS = (16384, 131072, 1048576)
DEFAULT_REPEATS = 21
INTERRUPTED = 130

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class SelectionResult:
    """The time of one selector and implementation; its fields are the CSV columns."""

    tokens: int
    selector: str
    implementation: str
    """"ours" or "eager"."""
    ms: float
    """Median."""
    ms_p20: float
    ms_p80: float
    speedup: float
    """The eager formula's median over ours, same run; 1 in its own row."""
    launches: int
    """Kernels on CUDA; of the eager formula, operators, each one kernel or more."""
    host_syncs: int
    repeats: int
    date: str
    commit: str
    device: str
    threads: int
    isa: str
    torch: str
    compiler: str
    cuda: str


def call(run: Callable[[], object]) -> Call:
    """A candidate that needs no turn."""
    return Call(lambda turn: run())


def measure(
    tokens: Sequence[int], *, device: torch.device, repeats: int = DEFAULT_REPEATS
) -> Iterator[list[SelectionResult]]:
    """Time every selector next to its eager formula. Yields the rows of one selector at a time.

    Args:
        tokens: batch sizes.
        device: cpu or cuda.
        repeats: timed runs of each.
    """
    stopwatch: Stopwatch = cpu_stopwatch
    synchronize: Callable[[], None] = no_wait
    if device.type == "cuda":
        stopwatch = cuda_stopwatch(device)
        synchronize = torch.cuda.synchronize
    shared = asdict(environment(device))
    for count in tokens:
        batch = make_tokens(count, device)
        seed = torch.ones((), dtype=torch.int64, device=device)
        for name, selector in SELECTORS.items():
            if name == "policy_stats" and batch.logits is None:
                continue
            ours, theirs = partial(selector.ours, batch, seed), partial(selector.eager, batch)
            samples = round_robin(
                {"ours": call(ours), "eager": call(theirs)},
                repeats=repeats,
                stopwatch=stopwatch,
                synchronize=synchronize,
            )
            costs = {
                "ours": Cost(selector.launches(count), 0),
                "eager": cost_of(theirs),
            }
            reference = samples["eager"].quantile(0.5)
            yield [
                SelectionResult(
                    tokens=count,
                    selector=name,
                    implementation=key,
                    ms=sample.quantile(0.5),
                    ms_p20=sample.quantile(0.2),
                    ms_p80=sample.quantile(0.8),
                    speedup=reference / sample.quantile(0.5),
                    launches=costs[key].launches,
                    host_syncs=costs[key].host_syncs,
                    repeats=len(sample.ms),
                    **shared,
                )
                for key, sample in samples.items()
            ]


def append_rows(path: Path, results: Sequence[SelectionResult]) -> None:
    """Append to a CSV file, with a header first if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv_files.DictWriter(file, [column.name for column in fields(SelectionResult)])
        if file.tell() == 0:
            writer.writeheader()
        for result in results:
            row = asdict(result)
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def read_rows(path: Path) -> list[SelectionResult]:
    """The rows of a file that append_rows wrote."""
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        return [
            SelectionResult(
                **{c.name: kinds[str(c.type)](row[c.name]) for c in fields(SelectionResult)}
            )
            for row in csv_files.DictReader(file)
        ]


def print_selection(console: Console, results: Sequence[SelectionResult]) -> None:
    """One table for each batch size, a line for each selector."""
    for count, rows in groupby(results, key=lambda row: row.tokens):
        table = Table(title=f"selection, {count} tokens, float32", title_justify="left")
        table.add_column("selector")
        for heading in ("ms", "p20–p80", "eager ms", "× eager", "launches", "host syncs"):
            table.add_column(heading, justify="right")
        by_selector: dict[str, dict[str, SelectionResult]] = {}
        for row in rows:
            by_selector.setdefault(row.selector, {})[row.implementation] = row
        for name, pair in by_selector.items():
            ours, other = pair["ours"], pair["eager"]
            table.add_row(
                name,
                milliseconds(ours.ms),
                f"{milliseconds(ours.ms_p20)}–{milliseconds(ours.ms_p80)}",
                milliseconds(other.ms),
                f"{ours.speedup:.1f}",
                f"{ours.launches} / {other.launches}",
                f"{ours.host_syncs} / {other.host_syncs}",
            )
        console.print(table)


def run(
    console: Console,
    csv: Path,
    tokens: Sequence[int],
    *,
    device: torch.device,
    repeats: int | None = None,
) -> list[SelectionResult]:
    """Measure with progress, write rows as they come, print tables."""
    results: list[SelectionResult] = []
    finished = False
    with console.status("measuring the selectors") as status, suppress(KeyboardInterrupt):
        for batch in measure(tokens, device=device, repeats=repeats or DEFAULT_REPEATS):
            append_rows(csv, batch)
            results += batch
            status.update(f"measured {batch[0].selector} on {batch[0].tokens} tokens")
        finished = True
    print_selection(console, results)
    console.print(f"{len(results)} rows appended to {csv}", highlight=False)
    if not finished:
        console.print("Interrupted: the tables hold what was finished.")
        raise typer.Exit(INTERRUPTED)
    return results


@app.command()
def main(
    tokens: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = ",".join(
        map(str, TOKENS)
    ),
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda if there.")] = None,
    repeats: Annotated[int, typer.Option(min=3)] = DEFAULT_REPEATS,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: torch's.")
    ] = None,
    csv: Annotated[Path, typer.Option(help="Append rows here.")] = Path("runs/selection.csv"),
) -> None:
    """Time selection next to the eager formulas; count launches and host synchronisations."""
    console = wide_console()
    warn_if_busy(console)
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    sizes = [int(size) for size in tokens.split(",")]
    run(console, csv, sizes, device=place, repeats=repeats)
    print_environment(console, environment(place))


if __name__ == "__main__":
    app()
