"""`python -m sim demo`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.rule import Rule

from sim.demo.folder import PAGE, Folder, stamp
from sim.demo.page import write_page
from sim.demo.parts import PARTS, Part

__all__ = ["demo"]

INTERRUPTED = 130


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all results.", file_okay=False)] = Path(
        "runs/demo"
    ),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do all parts again; what is there is moved aside.")
    ] = False,
) -> None:
    """Verify the theory, measure the kernels, train a small model; then show all on one page.

    The page is written anew after each part, so that an interruption leaves one of what was
    finished. The same command then goes on from there, the training in the step where it stopped.
    What another version, or another machine, left in the folder is moved aside.
    """
    console = Console()
    folder = Folder(out, stamp())
    try:
        aside = folder.begin(fresh=fresh)
    except BlockingIOError:
        raise typer.BadParameter(
            f"expected a folder of its own; another demo is writing to {out}", param_hint="--out"
        ) from None
    except OSError as error:
        raise typer.BadParameter(
            f"expected a folder that can be written; got {error}", param_hint="--out"
        ) from None
    if aside is not None:
        why = "" if fresh else ", of other code or another machine,"
        where = os.path.relpath(aside)
        console.print(f"Earlier results{why} are now in {where}", highlight=False, markup=False)
    try:
        status = _run_parts(folder, console)
    finally:
        folder.release()
    console.print(f"{out / PAGE}: open it in a browser", highlight=False, markup=False)
    if status:
        raise typer.Exit(status)


def _run_parts(folder: Folder, console: Console) -> int:
    """Exit status of the first part that failed, else 0."""
    out = folder.path
    outcomes: dict[str, str] = {}
    status = 0
    for part in PARTS:
        console.print(Rule(part.title))
        code = 0
        if part.name in folder.done:
            console.print("Done before, and nothing it depends on has changed; --fresh repeats it.")
            outcomes[part.name] = folder.done[part.name]
        else:
            code, outcomes[part.name] = _run(part, out)
            if code == 0:
                folder.finish(part.name, outcomes[part.name])
        write_page(out / PAGE, out, outcomes)
        status = status or code
        if code == INTERRUPTED:
            break
    return status


def _run(part: Part, out: Path) -> tuple[int, str]:
    """Exit status, and the outcome to show."""
    started = time.perf_counter()
    if part.anew:
        for name in part.files:
            (out / name).unlink(missing_ok=True)
    command = [argument.format(out=out) for argument in part.arguments]
    environment = {**os.environ, **dict(part.environment)}
    process = subprocess.Popen([sys.executable, "-m", *command], env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reached it, too: what is being trained is saved first
        code = INTERRUPTED
    seconds = time.perf_counter() - started
    return code, f"{seconds:.0f} s" + (f", exit status {code}" if code else "")
