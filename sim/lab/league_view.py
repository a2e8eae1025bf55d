"""The league to look at: entropy against performance, and the table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from sim.lab.figures import style
from sim.lab.league import AT_1, AT_64, ROWS, mean
from sim.lab.recipe_choices import CONTROLS
from sim.lab.statistics import Interval
from sim.lab.tables import Cell, Table, Tables
from sim.plots import panels

__all__ = ["CAPTION", "markdown", "pareto", "scatter", "standings"]

CAPTION = (
    "A point is a recipe tuned for what the panel shows; its cross is the 95 % interval over "
    "seeds. Named: GRPO, the survey's two compositions, and the recipes that no other beats in "
    "both (Pareto-optimal). The table has all recipes, also with the papers' hyper-parameters."
)
DIGITS = {"pass@1": 3, "pass@64": 3, "kept": 2, "kl": 2, "to 90 %": 0, "sampled": 0, "updates": 0}
HEADINGS = (
    "pass@1",
    "pass@64",
    "entropy kept",
    "KL to the start, nats",
    "responses to 90 %",
    "responses",
    "updates",
)
GAP = 0.05
"""between names, share of the height, where there is room"""
ALWAYS = ("grpo", "starter", "advanced")


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names that no other is at least as good as in both coordinates and better in one."""
    return [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]


def scatter(tables: Tables) -> Axes:
    """Entropy kept and performance, for pass@1 and for pass@64."""
    axes = panels(2, width=6.6, height=5.6)
    for axis, row, score in zip(axes, (AT_1, AT_64), ("pass@1", "pass@64"), strict=True):
        names = [str(name) for name in tables["runs"].values("recipe")]
        found = {
            name: (mean(tables, name, row, "kept"), mean(tables, name, row, score))
            for name in names
        }
        optimal = pareto({name: (x.value, y.value) for name, (x, y) in found.items()})
        for index, (label, of) in enumerate((("others", False), ("entropy control", True))):
            part = {name: at for name, at in found.items() if (name in CONTROLS) == of}
            look = {"color": style(index)["color"], "linestyle": "none"}
            xs, ys = zip(*part.values(), strict=True)
            axis.errorbar(
                [x.value for x in xs],
                [y.value for y in ys],
                xerr=[_arms(xs, "low"), _arms(xs, "high")],
                yerr=[_arms(ys, "low"), _arms(ys, "high")],
                marker="os"[index],
                markersize=5,
                elinewidth=0.6,
                label=label,
                **look,
            )
        axis.plot(
            *zip(*((x.value, y.value) for x, y in map(found.__getitem__, optimal)), strict=True),
            "o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor="0.2",
            label="Pareto-optimal",
        )
        axis.set(xlabel="entropy kept, share of the start", ylabel=score, title=row)
        axis.legend(
            frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3
        )
        shown = dict.fromkeys([*optimal, *(name for name in ALWAYS if name in found)])
        _name(axis, {name: (found[name][0].value, found[name][1].value) for name in shown})
    return axes[0]


def _arms(values: Sequence[Interval], end: str) -> list[float]:
    """Lengths of error bars to one side."""
    return [abs(getattr(value, end) - value.value) for value in values]


def _name(axis: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Names in a column to the right, apart from each other, each with a line to its point."""
    low, high = axis.get_ylim()
    names = sorted(points, key=lambda name: -points[name][1])
    gap = min(GAP, 1 / len(names))
    places: list[float] = []
    for name in names:
        wanted = (points[name][1] - low) / (high - low)
        places.append(min(wanted, places[-1] - gap if places else 1.0))
    for index in reversed(range(len(places))):
        lowest = places[index + 1] + gap if index + 1 < len(places) else 0.0
        places[index] = max(places[index], lowest)
    for name, place in zip(names, places, strict=True):
        axis.annotate(
            name,
            points[name],
            (1.03, place),
            textcoords="axes fraction",
            fontsize="small",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.7},
        )
    axis.set_ylim(low, high)


def standings(tables: Tables) -> Table:
    """Every recipe with its means and 95 % intervals over seeds, the best score of a row first.

    A star: no other is as good in performance and in entropy kept, and better in one of them.
    """
    rows: list[Sequence[Cell]] = []
    names = [str(name) for name in tables["runs"].values("recipe")]
    for row in ROWS:
        means = {name: {m: mean(tables, name, row, m) for m in DIGITS} for name in names}
        score = "pass@64" if row == AT_64 else "pass@1"
        optimal = pareto({n: (m["kept"].value, m[score].value) for n, m in means.items()})
        for name in sorted(names, key=lambda name: -means[name][score].value):
            cells = [_cell(means[name][measure], digits) for measure, digits in DIGITS.items()]
            rows.append((row, name, "*" if name in optimal else "", *cells))
    return Table.of(("row", "recipe", "Pareto", *HEADINGS), rows)


def markdown(tables: Tables) -> str:
    """The standings, a table for each row."""
    whole, lines = standings(tables), []
    for row in ROWS:
        part = whole.where(row=row)
        lines += [f"### {row[0].upper()}{row[1:]}", ""]
        lines += [f"| {' | '.join(part.columns[1:])} |", "|---" * (len(part.columns) - 1) + "|"]
        lines += [f"| {' | '.join(map(str, cells[1:]))} |" for cells in part.rows]
        lines.append("")
    return "\n".join(lines)


def _cell(value: Interval, digits: int) -> str:
    half = (value.high - value.low) / 2
    return f"{value.value:.{digits}f}" + (f" ± {half:.{digits}f}" if half else "")
