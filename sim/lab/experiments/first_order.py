"""Theorems 1 and 2: the first-order change of entropy, the order and the size of its error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import legend, style
from sim.lab.statistics import Interval, exactly
from sim.lab.tables import Cell, Table, Tables
from sim.plots import panels
from sim.tabular import Array
from sim.theorem1.sweep import GRADIENTS, Sweep, concatenate, fit_order
from sim.theorem1.sweep import measure as sweep_of
from sim.theorem1.tables import chunks

ETAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
POOLED_ETA = 1e-3
NAMES = {"pg": "policy gradient (Theorem 1)", "npg": "natural gradient (Theorem 2)"}


def measure(profile: Profile) -> Tables:
    """Random policies and returns of 5 actions and of a whole vocabulary, exact steps."""
    sizes = {5: 200, 1000: 50} if profile.name == "quick" else {5: 1000, 1000: 200, 151936: 50}
    rows: list[tuple[Cell, ...]] = []
    orders: list[tuple[Cell, ...]] = []
    for actions, states in sizes.items():
        parts = [list(sweep_of(chunk, ETAS)) for chunk in chunks(states, actions, seed=0)]
        for sweep in map(concatenate, zip(*parts, strict=True)):
            errors, second = np.abs(sweep.error).mean(0), np.abs(_second_order(sweep)).mean(0)
            rows += [
                (sweep.gradient, actions, *map(float, row))
                for row in zip(sweep.etas, errors, second, sweep.pooled_error, strict=True)
            ]
            fit = fit_order(sweep.etas, sweep.error)
            ratio = float(errors[0] / second[0])
            pooled = float(sweep.pooled_error[sweep.column(POOLED_ETA)])
            orders.append((sweep.gradient, actions, states, fit.order, ratio, pooled))
    return {
        "errors": Table.of(("gradient", "actions", "eta", "error", "second_order", "pooled"), rows),
        "orders": Table.of(("gradient", "actions", "states", "order", "ratio", "pooled"), orders),
    }


def _second_order(sweep: Sweep) -> Array:
    """½η² d²H/dη² [S, E]: what the error of the prediction should be."""
    return np.asarray(0.5 * sweep.etas**2 * sweep.curvature[:, None])


def judge(tables: Tables) -> Sequence[Interval]:
    """The worst of the table sizes for each gradient and quantity."""
    found = []
    for name, target in (("order", 2.0), ("ratio", 1.0), ("pooled", 0.0)):
        for gradient in GRADIENTS:
            values = tables["orders"].numbers(name, gradient=gradient)
            found.append(exactly(max(values, key=lambda value: abs(value - target))))
    return found


def plot(tables: Tables) -> Axes:
    """Error of the prediction against the step size, with the second order that it should be."""
    table = tables["errors"]
    axes = panels(2, width=5.4, height=3.8)
    for axis, gradient in zip(axes, GRADIENTS, strict=True):
        for index, actions in enumerate(table.values("actions")):
            rows = table.where(gradient=gradient, actions=actions)
            etas, look = rows.numbers("eta"), style(index)
            axis.plot(etas, rows.numbers("second_order"), **look, label=f"½η²·d²H, A = {actions}")
            axis.plot(etas, rows.numbers("error"), "o", color=look["color"], label="measured")
        axis.set(xscale="log", yscale="log", xlabel="step size η", title=NAMES[gradient])
        axis.set_ylabel("mean |ΔH − prediction|, nats")
        legend(axis)
    return axes[0]


EXPERIMENT = Experiment(
    name="first_order",
    title="Theorems 1 and 2",
    group="Theory",
    claim="A step changes the entropy by −η Cov(ln π, πA) for policy gradient and by "
    "−η Cov(ln π, A) for natural policy gradient, to first order.",
    paper="The Entropy Mechanism, arXiv 2505.22617",
    effect="The error falls as η² (order 2.00 ± 0.05), is ½η²·d²H/dη² (ratio 1 ± 0.01 at the "
    "smallest step), and is below 1 % of all change at η = 0.001.",
    test="None is needed: exact arithmetic, least squares of the logarithms for the order.",
    criteria=(
        *(Criterion(f"order of the error, {n}", above=1.95, below=2.05) for n in NAMES.values()),
        *(Criterion(f"error over ½η²·d²H, {n}", above=0.99, below=1.01) for n in NAMES.values()),
        *(Criterion(f"Σ|error|/Σ|ΔH| at η = 0.001, {n}", below=0.01) for n in NAMES.values()),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="Points: measured. Lines: the second-order term from the closed form. Every size of "
    "table lies on its line.",
)
