"""`python -m sim rlvr-compare`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sim.rlvr.compare import Scale, compare
from sim.rlvr.compare_page import write_page
from sim.rlvr.compare_results import load, write_finals
from sim.rlvr.compare_tasks import TASKS
from sim.rlvr.options import parse_options

__all__ = ["rlvr_compare"]

INTERRUPTED = 130


def rlvr_compare(
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Further recipes and tasks, in any order."),
    ] = None,
    recipes: Annotated[
        list[str] | None, typer.Option(help="Recipes by name, or dapo+steer; several may follow.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(TASKS)}; several may follow; both.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each recipe on each task.")] = 3,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Argument of every recipe or of its sampling; repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Checkpoints, CSV files and the page.")] = Path(
        "runs/rlvr-compare"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = Scale.steps,
    prompts: Annotated[int, typer.Option(min=1, help="Groups per step.")] = Scale.prompts,
    group_size: Annotated[
        int, typer.Option(min=1, help="Responses per prompt.")
    ] = Scale.group_size,
    minibatches: Annotated[
        int, typer.Option(min=0, help="Optimizer steps per step; 0: each recipe's own.")
    ] = Scale.minibatches or 0,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = Scale.learning_rate,
    small: Annotated[
        bool,
        typer.Option("--small", help="Tiny models, few steps: about a minute."),
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="The HTML page, a CSV file beside it; out/index.html.")
    ] = None,
) -> None:
    """Train every recipe on every task with every seed, and put them on one page.

    Ctrl-C finishes the step in hand and saves; the same command then goes on from there, and does
    not repeat what is finished.
    """
    console = Console()
    chosen, asked = list(recipes or []), list(tasks or [])
    for name in more or []:
        (asked if name in TASKS else chosen).append(name)
    chosen, asked = chosen or ["grpo", "dapo"], asked or list(TASKS)
    scale = Scale(
        steps=steps,
        prompts=prompts,
        group_size=group_size,
        minibatches=minibatches or None,
        learning_rate=learning_rate,
    )
    if small:
        scale = replace(
            scale,
            steps=min(steps, 4),
            prompts=4,
            group_size=4,
            minibatches=2,
            hidden_size=32,
            layers=1,
            warmup_accuracy=0.02,
            warmup_steps=25,
            problems=8,
            samples=4,
            shown=2,
        )
    try:
        finished = compare(
            chosen,
            tasks=asked,
            seeds=seeds,
            out=out,
            scale=scale,
            options=parse_options(settings or []),
            console=console,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    results = load(out, chosen, asked, seeds, steps=scale.steps)
    if any(task.runs for task in results):
        path = out / "index.html" if page is None else page
        command = shlex.join(["python", "-m", "sim", *sys.argv[1:]])
        write_page(path, results, names=chosen, scale=scale, command=command)
        write_finals(path.with_suffix(".csv"), results)
        console.print(f"{path}, and a CSV file of the finals beside it")
    if not finished:
        console.print("Interrupted and saved: the same command goes on from here.")
        raise typer.Exit(INTERRUPTED)
