"""Command line: `python -m sim`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from sim.covariance.command import covariance
from sim.demo import demo
from sim.rlvr.command import rlvr
from sim.theorem1.command import theorem1

COMMANDS: dict[str, Callable[..., None]] = {
    "theorem1": theorem1,
    "covariance": covariance,
    "rlvr": rlvr,
    "demo": demo,
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


@app.callback()
def main() -> None:
    """Experiments on the theory and practice of entropy control."""


for name, command in COMMANDS.items():
    app.command(name)(command)

if __name__ == "__main__":
    app(prog_name="python -m sim")
