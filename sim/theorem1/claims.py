"""What theory and the numeric contract promise of the measurements, and whether it held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sim.theorem1.sweep import Sweep, fit_order
from sim.theorem1.token_check import Deviation

__all__ = [
    "ORDER",
    "ORDER_TOLERANCE",
    "POOLED_BOUND",
    "POOLED_ETA",
    "Claim",
    "TableResult",
    "claims_of",
]

ORDER = 2.0
ORDER_TOLERANCE = 0.05
POOLED_ETA = 1e-3
POOLED_BOUND = 0.01

NAMES = {"pg": "vanilla PG", "npg": "natural PG"}


class TableResult(NamedTuple):
    """What was measured on one table, all of it or the states before an interrupt."""

    actions: int
    states: int
    sweeps: list[Sweep]
    """one per gradient"""
    deviations: list[Deviation]
    seconds: float


class Claim(NamedTuple):
    """One promise beside what was measured."""

    text: str
    measured: str
    bound: str
    holds: bool


def claims_of(results: Sequence[TableResult]) -> list[Claim]:
    """Every promise about these tables."""
    claims = []
    for result in results:
        for sweep in result.sweeps:
            fit = fit_order(sweep.etas, sweep.error)
            where = f"{NAMES[sweep.gradient]}, A = {sweep.actions}"
            claims.append(
                Claim(
                    f"order of the error, {where}",
                    f"{fit.order:.4f}",
                    f"{ORDER:.2f} ± {ORDER_TOLERANCE:.2f}",
                    abs(fit.order - ORDER) <= ORDER_TOLERANCE,
                )
            )
    for result in results:
        for sweep in result.sweeps:
            pooled = float(sweep.pooled_error[sweep.column(POOLED_ETA)])
            claims.append(
                Claim(
                    f"Σ|error| / Σ|ΔH| at η = {POOLED_ETA:g}, {NAMES[sweep.gradient]}, "
                    f"A = {sweep.actions}, {result.states} policies",
                    f"{pooled:.2e}",
                    f"< {POOLED_BOUND:.0e}",
                    pooled < POOLED_BOUND,
                )
            )
    for result in results:
        for dtype in dict.fromkeys(deviation.dtype for deviation in result.deviations):
            group = [deviation for deviation in result.deviations if deviation.dtype == dtype]
            closest = max(group, key=lambda deviation: deviation.error / deviation.bound)
            claims.append(
                Claim(
                    f"token_stats, {dtype}, A = {result.actions}: {closest.quantity}",
                    f"{closest.error:.1e}",
                    f"≤ {closest.bound:.1e}",
                    all(deviation.error <= deviation.bound for deviation in group),
                )
            )
    return claims
