"""`python -m sim rlvr`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from entropy_ext.recipes import RECIPES
from sim.rlvr.options import parse_options, summary
from sim.rlvr.records import Records
from sim.rlvr.run import DEMO_RECIPES, DEMO_STEPS, Result, run

__all__ = ["rlvr"]

INTERRUPTED = 130
AVERAGED = 5
DESCRIBED_WIDTH = 110
"""Columns of a terminal that shows the descriptions beside the other columns without folding."""


def rlvr(
    recipe: Annotated[
        list[str] | None, typer.Option(help="Recipe by name, or dapo+steer; repeatable.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Argument of the recipes or of their sampling; repeatable.",
        ),
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show all recipes and what each needs.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Checkpoints, CSV files, plot.")] = Path("runs/rlvr"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 50,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    prompts: Annotated[int, typer.Option(min=1, help="Groups per step.")] = 64,
    group_size: Annotated[
        int | None, typer.Option(min=1, help="Responses per prompt; the recipe's own.")
    ] = None,
    minibatches: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps per step; the recipe's own.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 1e-4,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Longest response, tokens; twice a solution.")
    ] = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Responses per forward pass.")] = 512,
    survey_prompts: Annotated[
        int, typer.Option(min=1, help="Problems that a curriculum chooses from.")
    ] = 2048,
    stored_prompts: Annotated[
        int, typer.Option(min=1, help="Problems in the data of recipes that do not sample.")
    ] = 512,
    sampler_dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    vocab_size: Annotated[int | None, typer.Option(help="Pad the model's vocabulary.")] = None,
    terms: Annotated[
        int | None, typer.Option(min=2, help="Numbers per problem; 2, or 3 if steps count.")
    ] = None,
    digits: Annotated[
        int | None, typer.Option(min=1, max=3, help="Most digits per number; 2, or 1 if three.")
    ] = None,
    experts: Annotated[int, typer.Option(min=1, help="Feed-forward networks per layer.")] = 1,
    keep_routing: Annotated[
        bool, typer.Option("--keep-routing", help="Train through the experts sampled through.")
    ] = False,
    chunked_head: Annotated[
        bool, typer.Option("--chunked-head", help="Never hold the logits of all tokens at once.")
    ] = False,
    chunk_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of those, most at once; default: 256 MiB of logits.")
    ] = None,
    warmup_accuracy: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Where supervised training stops.")
    ] = 0.4,
    warmup_steps: Annotated[int, typer.Option(min=1, help="Or after so many steps.")] = 600,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 5,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 10,
    demo: Annotated[
        bool, typer.Option("--demo", help="A comparison of a few minutes: recipes and steps set.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard an earlier run in --out.")
    ] = False,
) -> None:
    """Train a small transformer on verifiable arithmetic, with one recipe or several.

    Ctrl-C finishes the step in hand and saves; the same command then goes on from there.
    """
    console = Console()
    if show_list:
        console.print(_listing(console.width))
        return
    try:
        result = run(
            DEMO_RECIPES if demo else recipe or ["grpo"],
            options=parse_options(settings or []),
            out=out,
            steps=DEMO_STEPS if demo else steps,
            seed=seed,
            prompts=prompts,
            group_size=group_size,
            minibatches=minibatches,
            learning_rate=learning_rate,
            max_length=max_length,
            micro_batch=micro_batch,
            survey_prompts=survey_prompts,
            stored_prompts=stored_prompts,
            sampler_dtype=sampler_dtype,
            vocab_size=vocab_size,
            terms=terms,
            digits=digits,
            experts=experts,
            keep_routing=keep_routing,
            chunked_head=chunked_head,
            chunk_tokens=chunk_tokens,
            warmup_accuracy=warmup_accuracy,
            warmup_steps=warmup_steps,
            evaluate_every=evaluate_every,
            checkpoint_every=checkpoint_every,
            fresh=fresh,
            console=console,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except KeyboardInterrupt:
        console.print("Stopped in the warm-up: the same command goes on from its last measurement.")
        raise typer.Exit(INTERRUPTED) from None
    _print(console, result)
    if result.warmup_accuracy < warmup_accuracy:
        console.print(
            f"The warm-up ended at {result.warmup_accuracy:.2f}, short of {warmup_accuracy:.2f}: "
            f"its {warmup_steps} steps were too few (--warmup-steps)."
        )
    if result.interrupted:
        console.print("Interrupted and saved: the same command goes on from here.")
        raise typer.Exit(INTERRUPTED)


def _listing(width: int) -> Table:
    """The recipes; on a terminal too narrow for the descriptions, without them."""
    least_widths = {"recipe": 19, "paper": 16, "description": 30}
    headings = ("recipe", "paper", "description", "group", "updates", "needs")
    shown = [i for i in range(len(headings)) if width >= DESCRIBED_WIDTH or i != 2]
    table = Table(title="Recipes, with their defaults")
    for i in shown:
        table.add_column(
            headings[i],
            justify="right" if headings[i] in ("group", "updates") else "left",
            no_wrap=i == 0,  # on a narrow terminal too, names are there to be copied
            min_width=least_widths.get(headings[i]),
            overflow="fold",
        )
    for name in RECIPES:
        cells = summary(name)
        table.add_row(*(cells[i] for i in shown))
    if len(shown) < len(headings):
        table.caption = f"with descriptions from {DESCRIBED_WIDTH} columns on (COLUMNS=120)"
    return table


def _print(console: Console, result: Result) -> None:
    table = Table(title=f"warm-up reached {result.warmup_accuracy:.3f} on held-out problems")
    for heading in ("recipe", "steps", "reward", "held-out", "entropy, nats", "KL, nats"):
        table.add_column(heading, justify="left" if heading == "recipe" else "right")
    for name, records in result.records.items():
        measured = records.column("held_out")[1]
        if records.rows:
            table.add_row(
                name,
                str(len(records.rows)),
                _from_to(records, "reward"),
                f"{measured[-1]:.3f}" if measured else "",
                _from_to(records, "entropy"),
                _from_to(records, "kl_reference"),
            )
    table.caption = f"means of the first and the last {AVERAGED} steps"
    console.print(table)
    if result.plot is not None:
        console.print(f"{result.plot}, and a steps.csv per recipe ({result.seconds:.0f} s)")


def _from_to(records: Records, name: str) -> str:
    values = records.column(name)[1]
    first, last = values[:AVERAGED], values[-AVERAGED:]
    return f"{sum(first) / len(first):.3f} → {sum(last) / len(last):.3f}"
