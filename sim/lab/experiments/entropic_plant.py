"""EntroPIC's controller on the simplest plant: what P leaves, what I removes, what lag allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from entropy_ext.rl.controllers import EntropyPI
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import legend, style
from sim.lab.plant import critical_gain, simulate
from sim.lab.statistics import Interval, exactly
from sim.lab.tables import Cell, Table, Tables
from sim.plots import panels

TARGET, DRIFT, KP, KI = 0.5, 0.01, 1.0, 0.02
GAINS = (0.05, 0.1, 0.2, 0.4)
LAGS = (0, 1, 2, 4)
CHANGE, SHOCK = 400, 800
"""steps at which the target rises by a half, and at which the drift doubles"""


def measure(profile: Profile) -> Tables:
    """Paths of P and PI over gains; stability over lags. Nothing here is random."""
    paths: list[tuple[Cell, ...]] = []
    steady: list[tuple[Cell, ...]] = []
    for name, ki in (("P", 0.0), ("PI", KI)):
        for gain in GAINS:
            controller = EntropyPI(TARGET, kp=KP, ki=ki)
            path = simulate(
                controller,
                gain,
                1200,
                start=1.0,
                disturbance=lambda step: DRIFT * (2 if step >= SHOCK else 1),
                targets={CHANGE: 1.5 * TARGET},
            )
            paths += [(name, gain, step, entropy) for step, entropy in enumerate(path)]
            errors = [path[at] - target for at, target in ((CHANGE, 0.5), (SHOCK, 0.75))]
            steady.append((name, gain, *errors, path[-1] - 0.75, DRIFT / (gain * KP)))
    limits = [
        (lag, critical_gain(lag), 2 * math.sin(math.pi / (2 * (2 * lag + 1)))) for lag in LAGS
    ]
    return {
        "paths": Table.of(("controller", "gain", "step", "entropy"), paths),
        "steady": Table.of(
            ("controller", "gain", "first", "after_change", "after_shock", "drift_over_gain_kp"),
            steady,
        ),
        "limits": Table.of(("lag", "measured", "theory"), limits),
    }


def judge(tables: Tables) -> Sequence[Interval]:
    """The worst gain of each; the ends of the range for what P leaves."""
    pi, p = (tables["steady"].where(controller=name) for name in ("PI", "P"))
    worst = [max(map(abs, pi.numbers(name))) for name in ("first", "after_change", "after_shock")]
    scale = p.numbers("drift_over_gain_kp")
    ratios = [-e / s for e, s in zip(p.numbers("first"), scale, strict=True)]
    # The shock doubles the drift.
    ratios += [-e / (2 * s) for e, s in zip(p.numbers("after_shock"), scale, strict=True)]
    limits = tables["limits"]
    gaps = [
        abs(m / t - 1)
        for m, t in zip(limits.numbers("measured"), limits.numbers("theory"), strict=True)
    ]
    return [*map(exactly, worst), exactly(min(ratios)), exactly(max(ratios)), exactly(max(gaps))]


def plot(tables: Tables) -> Axes:
    """Entropy over time for P and PI."""
    axes = panels(2, width=5.4, height=3.8)
    for axis, controller in zip(axes, ("P", "PI"), strict=True):
        for index, gain in enumerate(GAINS):
            rows = tables["paths"].where(controller=controller, gain=gain)
            look = style(index)
            axis.plot(rows.numbers("step"), rows.numbers("entropy"), label=f"gain {gain}", **look)
        axis.step([0, CHANGE, 1200], [0.5, 0.5, 0.75], color="0.4", linewidth=1, label="target")
        axis.axvline(SHOCK, color="0.7", linewidth=1)
        axis.set(xlabel="step", ylabel="entropy, nats", title=controller, ylim=(0, 1.1))
    legend(*axes)
    return axes[0]


EXPERIMENT = Experiment(
    name="entropic_plant",
    title="P and PI control, in theory",
    group="Theory",
    claim="Under a constant drift a proportional controller keeps an error of drift/(gain·kp), and "
    "the integral removes it.",
    paper="EntroPIC, arXiv 2511.15248",
    effect="PI: error below 0.001 nats at rest, after a step of the target and after the drift "
    "doubled. P: error within 5 % of theory. Lag d: stable up to gain·kp = 2 sin(π/(4d + 2)).",
    test="None is needed: the plant H' = H − gain·α − drift is deterministic.",
    criteria=(
        Criterion("PI: largest error at rest, nats", below=1e-3),
        Criterion("PI: after a step of the target, nats", below=1e-3),
        Criterion("PI: after the drift doubled, nats", below=1e-3),
        Criterion("P: least error over drift/(gain·kp)", above=0.95),
        Criterion("P: largest error over drift/(gain·kp)", below=1.05),
        Criterion("critical gain of P over lags, relative to theory", below=0.05),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption=f"The target rises at step {CHANGE}; the drift doubles at the vertical line.",
)
