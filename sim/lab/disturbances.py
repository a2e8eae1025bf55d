"""How EntroPIC's loop answers disturbances: over gains and lags, and against its theory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from entropy_ext.rl.controllers import EntropyPI
from sim.lab.figures import style
from sim.lab.plant import decay, drift, modulus, pulse, simulate, unbounded
from sim.lab.tables import Cell, Table, Tables

__all__ = ["answers", "plot_pulses", "plot_stability"]


def answers(
    *,
    kp: float,
    ki: float,
    gains: Sequence[float],
    lags: Sequence[int],
    lost: float,
    drifting: float,
    shock: int,
    steps: int,
) -> Tables:
    """Answers to a pulse and to a drift, over gains and lags, and the wind-up of the integral.

    Args:
        kp, ki: of the controller.
        gains: of the plant; drifts and pulses without lag leave out the first and the last.
        lags: in steps.
        lost: nats of the pulse.
        drifting: nats of the drift, per step.
        shock: the step at which either comes.
        steps: of a path after the pulse; one under drift gets four times as many, and stability is
            read off 200 steps after the shock.

    Returns:
        stability: lag, gain, theory, measured: `modulus` and `decay` after the pulse.
        pulses: controller, gain, step, entropy: paths of P and PI, steps counted from the shock.
        drifts: gain, area, left: accumulated error over drift/(gain·ki); error at the end.
        windup: held, overshoot: with the integral held at the bound, and without; nats.
    """
    stability: list[Sequence[Cell]] = []
    pulses: list[Sequence[Cell]] = []
    drifts: list[Sequence[Cell]] = []
    loss, away = pulse(lost, shock), drift(drifting, shock)
    for lag in lags:
        for gain in gains:
            path = simulate(unbounded(kp, ki), gain, shock + 200, disturbance=loss, lag=lag)
            theory = modulus(gain, lag, kp=kp, ki=ki)
            stability.append((lag, gain, theory, decay(path[shock + 1 :])))
    for gain in gains[1:-1]:
        path = simulate(unbounded(kp, ki), gain, 4 * steps, disturbance=away)
        drifts.append((gain, math.fsum(path) * gain * ki / -drifting, path[-1]))
        for name, integral in (("P", 0.0), ("PI", ki)):
            path = simulate(unbounded(kp, integral), gain, steps, disturbance=loss)
            pulses += [(name, gain, step - shock, h) for step, h in enumerate(path)]
    windup: list[Sequence[Cell]] = []
    for held in (False, True):
        bounded = EntropyPI(0.0, kp=kp, ki=ki, anti_windup=held)
        windup.append((str(held), -min(simulate(bounded, 0.01, steps, start=1.5))))
    return {
        "stability": Table.of(("lag", "gain", "theory", "measured"), stability),
        "pulses": Table.of(("controller", "gain", "step", "entropy"), pulses),
        "drifts": Table.of(("gain", "area", "left"), drifts),
        "windup": Table.of(("held", "overshoot"), windup),
    }


def plot_stability(axis: Axes, table: Table) -> None:
    """Factor on the error per step over gains: for each lag a line from theory, dots measured."""
    for index, lag in enumerate(table.values("lag")):
        rows, look = table.where(lag=lag), style(index)
        axis.plot(rows.numbers("gain"), rows.numbers("theory"), label=f"lag {lag}", **look)
        axis.plot(rows.numbers("gain"), rows.numbers("measured"), "o", color=look["color"])
    axis.axhline(1.0, color="0.4", linewidth=1)
    gains = list(map(float, table.values("gain")))
    axis.set(xscale="log", xlabel="gain of the plant, nats per α", ylim=(0.9, 1.2))
    axis.set_xticks(gains, list(map(str, gains)))
    axis.minorticks_off()
    axis.set_ylabel("factor on the error per step (dots: measured)")


def plot_pulses(axis: Axes, table: Table, gains: Sequence[float]) -> None:
    """The error after the pulse at some gains, a line for P and one for PI."""
    for index, gain in enumerate(gains):
        for dashes, name in (("-", "P"), ("--", "PI")):
            rows = table.where(controller=name, gain=gain)
            look = {**style(index), "linestyle": dashes, "label": f"{name}, gain {gain}"}
            axis.plot(rows.numbers("step"), rows.numbers("entropy"), **look)
    axis.set(xlabel="steps since the pulse", ylabel="error, nats", xlim=(-10, 200))
