"""`python -m sim routing`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sim.rlvr.options import parse_options
from sim.rlvr.routing import Drift, compare_routing

__all__ = ["drift_table", "routing"]

INTERRUPTED = 130


def routing(
    recipe: Annotated[str, typer.Option(help="Recipe by name.")] = "deepseek_v32",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Argument of the recipe or of its sampling."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Both runs, table, plot.")] = Path("runs/routing"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 30,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    prompts: Annotated[int, typer.Option(min=1, help="Groups per step.")] = 64,
    group_size: Annotated[
        int | None, typer.Option(min=1, help="Responses per prompt; the recipe's own.")
    ] = None,
    minibatches: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps per step; the recipe's own.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 1e-4,
    experts: Annotated[int, typer.Option(min=2, help="Feed-forward networks per layer.")] = 2,
    sampler_dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    digits: Annotated[int, typer.Option(min=1, max=3, help="Most digits per number.")] = 2,
    warmup_accuracy: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Where supervised training stops.")
    ] = 0.4,
    warmup_steps: Annotated[int, typer.Option(min=1, help="Or after so many steps.")] = 600,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard an earlier run in --out.")
    ] = False,
) -> None:
    """Show how replaying the sampler's choice of experts keeps the trainer's ratio from drifting.

    A small mixture of experts samples in one precision and trains in another, twice: with its
    router free, and with the sampler's routing kept. Ctrl-C saves; the same command goes on.
    """
    console = Console()
    try:
        drifts, plot, interrupted = compare_routing(
            recipe,
            out=out,
            console=console,
            fresh=fresh,
            options=parse_options(settings or []),
            steps=steps,
            seed=seed,
            prompts=prompts,
            group_size=group_size,
            minibatches=minibatches,
            learning_rate=learning_rate,
            experts=experts,
            sampler_dtype=sampler_dtype,
            digits=digits,
            warmup_accuracy=warmup_accuracy,
            warmup_steps=warmup_steps,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except KeyboardInterrupt:
        console.print("Stopped in the warm-up: the same command goes on from its last measurement.")
        raise typer.Exit(INTERRUPTED) from None
    if drifts:
        console.print(drift_table(drifts))
        console.print(f"{plot}, and drift.csv beside it")
    if interrupted:
        console.print("Interrupted and saved: the same command goes on from here.")
        raise typer.Exit(INTERRUPTED)


def drift_table(drifts: list[Drift]) -> Table:
    """For each moment of each training, a line for the free router and one for kept routing."""
    table = Table(title="|ln π/μ| of trainer π and sampler μ, router free or routing kept")
    columns = ("all tokens", "99.9 %", "rerouted")
    for heading in ("trained", "updates", "rerouted", "measured", *columns):
        table.add_column(heading, justify="right")
    for drift in drifts:
        lines = (
            ("free", drift.free, drift.free_tail, drift.free_rerouted),
            ("kept", drift.kept, drift.kept_tail, drift.kept_rerouted),
        )
        first = [drift.trained, drift.moment, f"{drift.rerouted:.2%}"]
        for measured, *values in lines:
            table.add_row(*first, measured, *(f"{value:.4f}" for value in values))
            first = [""] * len(first)
        table.add_section()
    table.caption = "nats, means over the steps; the last column: of the rerouted tokens alone"
    return table
