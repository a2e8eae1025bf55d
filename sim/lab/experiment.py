"""What an experiment is: a claim, what would count as showing it, then the measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from matplotlib.axes import Axes

from sim.lab.statistics import Interval
from sim.lab.tables import Table, Tables

__all__ = [
    "FULL",
    "GROUPS",
    "QUICK",
    "Criterion",
    "Experiment",
    "Finding",
    "Group",
    "Profile",
    "Verdict",
]

Verdict = Literal["reproduced", "not reproduced", "outside a tabular model"]
Group = Literal["Theory", "The papers' claims", "The league", "When to care about entropy"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""in the order of the report"""


class Profile(NamedTuple):
    """How much to compute."""

    name: str
    seeds: int

    def pick(self, *, quick: int, full: int) -> int:
        """One of two sizes."""
        return quick if self.name == "quick" else full


QUICK = Profile("quick", 20)
FULL = Profile("full", 40)


class Criterion(NamedTuple):
    """What must be seen, written down before it is looked for.

    The whole confidence interval has to lie above `above` and below `below`.
    """

    text: str
    """the quantity, with its unit"""
    above: float | None = None
    below: float | None = None

    @property
    def wanted(self) -> str:
        """The bounds, to read."""
        if self.above is not None and self.below is not None:
            return f"{self.above:g} to {self.below:g}"
        return f"> {self.above:g}" if self.above is not None else f"< {self.below:g}"

    def holds(self, measured: Interval) -> bool:
        """Whether the interval lies within the bounds; never for NaN."""
        above = self.above is None or measured.low > self.above
        below = self.below is None or measured.high < self.below
        return above and below and measured.low <= measured.high


class Finding(NamedTuple):
    """A criterion and what was measured."""

    criterion: Criterion
    measured: Interval

    @property
    def holds(self) -> bool:
        """Whether it was seen."""
        return self.criterion.holds(self.measured)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A claim and how to decide it.

    Args:
        name: as on the command line.
        title: a few words.
        claim: what is said to hold, one sentence.
        paper: where it is said.
        effect: which sizes count as showing it, and why these; written before any result.
        test: the statistics behind the intervals.
        criteria: what must be seen; the claim is reproduced if all are.
        measure: runs it; the tables hold every number that judge and plot read.
        judge: the measured quantity of each criterion, in their order.
        plot: draws the tables; returns any of the figure's axes.
        caption: how to read the plot.
        group: the part of the report.
        standings: a table to read beside the plot, shown whole; None for none.
        outside: why a tabular model cannot show the claim, if it cannot; what is measured is then
            what comes nearest.
        revisions: each change to the criteria since a result was first seen: date, from, to, why.
    """

    name: str
    title: str
    claim: str
    paper: str
    effect: str
    test: str
    criteria: tuple[Criterion, ...]
    measure: Callable[[Profile], Tables]
    judge: Callable[[Tables], Sequence[Interval]]
    plot: Callable[[Tables], Axes]
    caption: str
    group: Group = "The papers' claims"
    standings: Callable[[Tables], Table] | None = None
    outside: str = ""
    revisions: tuple[str, ...] = ()

    def findings(self, tables: Tables) -> list[Finding]:
        """Every criterion with its measurement."""
        measured = self.judge(tables)
        return [Finding(*pair) for pair in zip(self.criteria, measured, strict=True)]

    def verdict(self, findings: Sequence[Finding]) -> Verdict:
        """What the findings come to."""
        if self.outside:
            return "outside a tabular model"
        return "reproduced" if all(f.holds for f in findings) else "not reproduced"
