"""Command line: `python -m sim`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from sim.covariance.command import covariance
from sim.demo import demo
from sim.lab.command import league, list_experiments, report, run
from sim.rlvr.command import rlvr
from sim.rlvr.compare_command import rlvr_compare
from sim.rlvr.routing_command import routing
from sim.theorem1.command import theorem1

COMMANDS: dict[str, Callable[..., None]] = {
    "theorem1": theorem1,
    "covariance": covariance,
    "rlvr": rlvr,
    "rlvr-compare": rlvr_compare,
    "routing": routing,
    "demo": demo,
    "run": run,
    "report": report,
    "league": league,
}

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    listed: Annotated[
        bool, typer.Option("--list", help="The experiments that `run` and `report` know.")
    ] = False,
) -> None:
    """Experiments on the theory and practice of entropy control."""
    if listed:
        list_experiments()
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for name, command in COMMANDS.items():
    app.command(name)(command)

if __name__ == "__main__":
    app(prog_name="python -m sim")
