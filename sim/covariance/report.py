"""The measurements as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from sim.covariance.measures import SHARES, FormResult, Measurement

__all__ = ["print_forms", "print_selectors", "print_shares"]


def print_forms(console: Console, measurements: Sequence[Measurement]) -> None:
    """Rank correlations and the error of every form; the measurements share a step size."""
    columns: dict[str, Callable[[FormResult], float]] = {
        "Spearman correlation of |prediction| with |ΔH|": lambda form: form.rank_size,
        "Spearman correlation of the prediction with ΔH": lambda form: form.rank_signed,
        "‖ΔH − c·prediction‖/‖ΔH‖ at the best c": lambda form: form.relative_error,
    }
    for title, value in columns.items():
        table = _table(title, measurements)
        for form in measurements[0].forms:
            table.add_column(form.form, justify="right")
        for measurement in measurements:
            table.add_row(
                *_point(measurement), *(f"{value(form):.4f}" for form in measurement.forms)
            )
        console.print(table)


def print_shares(console: Console, measurements: Sequence[Measurement]) -> None:
    """What equal numbers of tokens hold, chosen by the size of each form's prediction."""
    for index, share in enumerate(SHARES):
        table = _table(
            f"Share of Σ|ΔH| held by the {share:.2%} of the tokens a form puts first", measurements
        )
        for form in measurements[0].forms:
            table.add_column(form.form, justify="right")
        for measurement in measurements:
            table.add_row(
                *_point(measurement),
                *(f"{form.shares[index]:.2%}" for form in measurement.forms),
            )
        console.print(table)


def print_selectors(console: Console, measurements: Sequence[Measurement]) -> None:
    """What the selectors choose with their papers' settings."""
    for index, selector in enumerate(measurements[0].selectors):
        table = _table(
            f"{selector.selector}: share of Σ|ΔH| held by the tokens it chooses, by as many of "
            "other origin, and share of Σ max(−ΔH, 0)",
            measurements,
        )
        for heading in (
            "chosen",
            "share",
            "exact form",
            "random",
            "of falls",
        ):
            table.add_column(heading, justify="right")
        for measurement in measurements:
            result = measurement.selectors[index]
            table.add_row(
                *_point(measurement),
                str(result.tokens),
                *(f"{share:.2%}" for share in result[2:]),
            )
        console.print(table)


def _table(title: str, measurements: Sequence[Measurement]) -> Table:
    table = Table(title=f"{title}; η = {measurements[0].eta:g}", title_justify="left")
    table.add_column("point")
    table.add_column("tokens", justify="right")
    table.add_column("entropy", justify="right")
    return table


def _point(measurement: Measurement) -> tuple[str, ...]:
    return measurement.point, str(measurement.tokens), f"{measurement.entropy:.3f}"
