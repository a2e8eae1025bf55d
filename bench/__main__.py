"""Command line: `python -m bench`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import selection_bench
from bench.candidates import DTYPES, IMPLEMENTATIONS
from bench.check import (
    SELECTION_TOKENS,
    bars,
    isa_results,
    print_bars,
    reference_results,
    selection_bars,
)
from bench.grid import DEFAULT, QUICK, fits, grid, run
from bench.report import print_environment, print_results, warn_if_busy, wide_console
from bench.results import PASSES, Result, append_csv, check_columns

app = typer.Typer(add_completion=False)

INTERRUPTED = 130
ISA_NAMES = ("v2", "v3", "v4")


def one_of(names: Collection[str]) -> Callable[[str | None], str | None]:
    """A check that a comma-separated option holds known names only."""

    def check(text: str | None) -> str | None:
        for name in [] if text is None else text.split(","):
            if name not in names:
                raise typer.BadParameter(f"expected some of {', '.join(names)}; got {name!r}")
        return text

    return check


def sizes(text: str | None) -> str | None:
    """A check that a comma-separated option holds positive whole numbers only."""
    for size in [] if text is None else text.split(","):
        if not size.isdecimal() or int(size) == 0:
            raise typer.BadParameter(f"expected positive whole numbers; got {size!r}")
    return text


def usable(device: str | None) -> str | None:
    """A check that the device is one we have kernels for, and is there."""
    if device not in (None, "cpu", "cuda"):
        raise typer.BadParameter(f"expected cpu or cuda; got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("cuda: this torch finds no CUDA device")
    return device


def comma_separated(help: str, check: Callable[[str | None], str | None]) -> Any:
    """An option whose value is a list."""
    return typer.Option(help=f"{help}, comma-separated.", callback=check, show_default=False)


@app.command()
def main(
    rows: Annotated[str | None, comma_separated("Rows, i.e. tokens", sizes)] = None,
    vocab: Annotated[str | None, comma_separated("Vocabulary sizes", sizes)] = None,
    dtype: Annotated[str | None, comma_separated(f"Of {', '.join(DTYPES)}", one_of(DTYPES))] = None,
    only: Annotated[
        str | None,
        comma_separated(f"Of {', '.join(IMPLEMENTATIONS)}", one_of(IMPLEMENTATIONS)),
    ] = None,
    direction: Annotated[
        str | None, comma_separated(f"Of {', '.join(PASSES)}", one_of(PASSES))
    ] = None,
    isa: Annotated[
        str | None,
        comma_separated(
            "One run for each of these CPU instruction sets: v2, v3, v4", one_of(ISA_NAMES)
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; default: cuda if there.", callback=usable)
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Timed runs; default: 7, on CUDA 30.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: torch's, with --check 2.")
    ] = None,
    csv: Annotated[Path, typer.Option(help="Append rows here.")] = Path("runs/bench.csv"),
    quick: Annotated[bool, typer.Option(help="A small grid, well under a minute.")] = False,
    check: Annotated[
        bool, typer.Option(help="Measure the CPU speed promises and say which hold.")
    ] = False,
) -> None:
    """Time token_stats and what frameworks do today, next to a read and a copy of the logits.

    Without a choice of shapes or implementations also the selectors, next to what they replace.
    """
    console = wide_console()
    try:
        check_columns(csv)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--csv") from None
    if isa is not None:
        raise typer.Exit(sweep_isas(isa.split(",")))
    warn_if_busy(console)
    if check and threads is None:
        threads = 2
    if threads is not None:
        torch.set_num_threads(threads)
    if check:
        raise typer.Exit(run_check(console, csv))

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preset = QUICK if quick else DEFAULT
    shapes = grid(
        integers(rows) or preset.rows[place.type],
        integers(vocab) or preset.vocab,
        names(dtype) or preset.dtypes,
    )
    if place.type == "cuda":
        free = torch.cuda.mem_get_info()[0]
        for shape in [shape for shape in shapes if not fits(shape, free)]:
            console.print(f"left out, {free / 1e9:.0f} GB do not hold it: {shape}", highlight=False)
            shapes.remove(shape)
    directions = names(direction) or PASSES
    measured = run(
        shapes,
        device=place,
        repeats=repeats,
        only=names(only),
        directions=directions,
        budget_s=preset.budget_s,
    )
    results, finished = collect(measured, console, csv, len(shapes) * len(directions))
    print_results(console, results)
    if finished and not any((rows, vocab, dtype, only, direction)):
        tokens = selection_bench.TOKENS[:1] if quick else selection_bench.TOKENS
        selection_csv = csv.with_name("selection.csv")
        selection_bench.run(console, selection_csv, tokens, device=place, repeats=repeats)
    if results:
        print_environment(console, results[0])
        console.print(f"{len(results)} rows appended to {csv}", highlight=False)
    if not finished:
        console.print("Interrupted: the tables hold what was finished.")
        raise typer.Exit(INTERRUPTED)


def names(text: str | None) -> list[str] | None:
    """The items of a comma-separated option."""
    return None if text is None else text.split(",")


def integers(text: str | None) -> list[int] | None:
    """The items of a comma-separated option, as numbers."""
    return None if text is None else [int(item) for item in text.split(",")]


def collect(measured: Any, console: Console, csv: Path, total: int) -> tuple[list[Result], bool]:
    """Write rows as they come, with progress. Returns them and whether all came."""
    results: list[Result] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=total)
        try:
            for batch in measured:
                append_csv(csv, batch)
                results += batch
                first = batch[0]
                progress.update(
                    task,
                    advance=1,
                    description=f"{first.direction} [{first.rows}, {first.vocab}] {first.dtype}",
                )
        except KeyboardInterrupt:
            return results, False
    return results, True


def run_check(console: Console, csv: Path) -> int:
    """Measure what the promises are about. Returns the exit code."""
    measured, finished = collect(reference_results(), console, csv, total=6)
    if not finished:
        return INTERRUPTED
    print_results(console, measured)
    with console.status("measuring v3 and v4"):
        by_isa = isa_results(("v3", "v4"))
    promises = bars(measured, by_isa)
    print_bars(console, promises)
    selection_csv = csv.with_name("selection.csv")
    cpu = torch.device("cpu")
    selected = selection_bench.run(console, selection_csv, [SELECTION_TOKENS], device=cpu)
    of_selection = selection_bars(selected)
    print_bars(console, of_selection, f"{SELECTION_TOKENS} tokens")
    promises += of_selection
    if not by_isa:
        console.print("v3 against v4: not measured, for v4 is not what runs here")
    print_environment(console, measured[0])
    return 0 if all(bar.holds for bar in promises) else 1


def sweep_isas(isas: list[str]) -> int:
    """Run this command once for each instruction set: it is chosen when the module is loaded."""
    arguments = iter(sys.argv[1:])
    others = []
    for argument in arguments:
        if argument == "--isa":
            next(arguments)
        elif not argument.startswith("--isa="):
            others.append(argument)
    for isa in isas:
        command = [sys.executable, "-m", "bench", *others]
        code = subprocess.call(command, env=os.environ | {"ENTROPY_EXT_ISA": isa})
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    app()
