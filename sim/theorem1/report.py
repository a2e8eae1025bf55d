"""The measurements as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from sim.theorem1.bandit import ETA, PROBS, BanditStep
from sim.theorem1.claims import NAMES, POOLED_ETA, Claim, TableResult
from sim.theorem1.sweep import fit_order

__all__ = ["print_bandit", "print_claims", "print_orders", "print_sweeps", "print_token_checks"]


def print_bandit(console: Console, steps: Sequence[BanditStep]) -> None:
    """Both gradients on the three-armed bandit."""
    table = Table(
        title=f"Bandit: π = {list(PROBS)}, one exact step of η = {ETA:g}; ΔH in nats",
        title_justify="left",
    )
    table.add_column("reward")
    table.add_column("advantages A")
    table.add_column("gradient")
    for heading in ("predicted −η Cov", "measured ΔH", "error"):
        table.add_column(heading, justify="right")
    for step in steps:
        table.add_row(
            step.case,
            ", ".join(f"{value:+.1f}" for value in step.advantages),
            NAMES[step.gradient],
            f"{step.predicted:+.6e}",
            f"{step.measured:+.6e}",
            f"{step.measured - step.predicted:+.1e}",
        )
    console.print(table)


def print_sweeps(console: Console, results: Sequence[TableResult]) -> None:
    """Means over states for every table, gradient and step size."""
    for result in results:
        for sweep in result.sweeps:
            table = Table(
                title=f"{NAMES[sweep.gradient]}: {result.states} states × {result.actions} "
                "actions; means over states, nats",
                title_justify="left",
            )
            for heading in (
                "η",
                "|ΔH| measured",
                "|measured − predicted|",
                "½η²|H″| (theory)",
                "Σ|error| / Σ|ΔH|",
                "error if two entropies are subtracted",
            ):
                table.add_column(heading, justify="right")
            measured = np.abs(sweep.measured).mean(0)
            error = np.abs(sweep.error).mean(0)
            curvature = np.abs(sweep.curvature).mean()
            subtracted = np.abs(sweep.subtracted - sweep.predicted).mean(0)
            for column, eta in enumerate(sweep.etas):
                table.add_row(
                    f"{eta:.3g}",
                    f"{measured[column]:.4e}",
                    f"{error[column]:.4e}",
                    f"{0.5 * eta * eta * curvature:.4e}",
                    f"{sweep.pooled_error[column]:.2e}",
                    f"{subtracted[column]:.4e}",
                )
            console.print(table)


def print_orders(console: Console, results: Sequence[TableResult]) -> None:
    """The fitted order of the error, for all states together and for each alone."""
    table = Table(title="Order of the error in η (theory: 2)", title_justify="left")
    table.add_column("gradient")
    for heading in (
        "states × actions",
        "fitted order",
        "error / ½η²|H″|, smallest η",
        f"error / |ΔH| at η = {POOLED_ETA:g}: pooled",
        "median state",
        "95 %",
        "time",
    ):
        table.add_column(heading, justify="right")
    for result in results:
        for sweep in result.sweeps:
            fit = fit_order(sweep.etas, sweep.error)
            second_order = 0.5 * sweep.etas[0] ** 2 * np.abs(sweep.curvature).sum()
            ratio = np.abs(sweep.error[:, 0]).sum() / second_order
            column = sweep.column(POOLED_ETA)
            relative = np.abs(sweep.error[:, column] / sweep.measured[:, column])
            table.add_row(
                NAMES[sweep.gradient],
                f"{result.states} × {result.actions}",
                f"{fit.order:.4f} ± {fit.standard_error:.0e}",
                f"{ratio:.5f}",
                f"{sweep.pooled_error[column]:.2e}",
                f"{np.median(relative):.2e}",
                f"{np.percentile(relative, 95):.2e}",
                f"{result.seconds:.1f} s",
            )
    console.print(table)


def print_token_checks(console: Console, results: Sequence[TableResult]) -> None:
    """token_stats and plain PyTorch against the closed forms."""
    table = Table(
        title="token_stats against float64 closed forms: largest error over states, nats",
        title_justify="left",
    )
    for heading in ("actions", "logits", "quantity"):
        table.add_column(heading)
    for heading in ("token_stats", "plain PyTorch", "bound: plain + 4 ulp"):
        table.add_column(heading, justify="right")
    for result in results:
        for deviation in result.deviations:
            table.add_row(
                str(result.actions),
                deviation.dtype,
                deviation.quantity,
                f"{deviation.error:.2e}",
                f"{deviation.plain_error:.2e}",
                f"{deviation.bound:.2e}",
            )
    console.print(table)


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Promises and whether they held."""
    table = Table(title="What must hold", title_justify="left")
    table.add_column("claim")
    table.add_column("measured", justify="right")
    table.add_column("bound", justify="right")
    table.add_column("holds")
    for claim in claims:
        holds = "[green]yes[/]" if claim.holds else "[bold red]no[/]"
        table.add_row(claim.text, claim.measured, claim.bound, holds)
    console.print(table)
