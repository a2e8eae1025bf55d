"""The simplest plant of a controller of entropy: an integrator with a lag and a disturbance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from entropy_ext.rl.controllers import EntropyPI

__all__ = ["critical_gain", "decay", "drift", "modulus", "pulse", "simulate", "unbounded"]


def simulate(
    controller: EntropyPI,
    gain: float,
    steps: int,
    *,
    start: float = 0.0,
    disturbance: Callable[[int], float] = lambda step: 0.0,
    targets: Mapping[int, float] | None = None,
    lag: int = 0,
) -> list[float]:
    """H after each step of H ← H − gain·α(H of `lag` steps ago) − disturbance.

    Args:
        controller: gives α; its state goes on.
        gain: of the plant.
        steps: how many.
        start: H before the first, nats.
        disturbance: nats taken away at a step, counted from 0.
        targets: step → the controller's target from there on, nats.
        lag: steps by which the controller sees H late.

    Returns:
        steps + 1 numbers, the start first; nats.
    """
    path = [start]
    for step in range(steps):
        controller.target = (targets or {}).get(step, controller.target)
        seen = torch.tensor(path[max(0, len(path) - 1 - lag)], dtype=torch.float64)
        path.append(path[-1] - gain * float(controller.step(seen)) - disturbance(step))
    return path


def critical_gain(lag: int) -> float:
    """The gain·kp at which oscillations of the P loop stop dying out, by bisection."""
    low, high = 0.0, 2.5
    for _ in range(12):
        middle = 0.5 * (low + high)
        controller = EntropyPI(0.0, kp=1.0, ki=0.0, limit=math.inf)
        path = simulate(controller, middle, 400, start=1e-3, lag=lag)
        early, late = max(map(abs, path[100:150])), max(map(abs, path[-50:]))
        low, high = (low, middle) if late > early else (middle, high)
    return 0.5 * (low + high)


def unbounded(kp: float, ki: float) -> EntropyPI:
    """A controller for the target 0 that meets no bound, so that the loop itself shows."""
    return EntropyPI(0.0, kp=kp, ki=ki, limit=math.inf)


def drift(nats: float, since: int) -> Callable[[int], float]:
    """A disturbance of as much at every step, from one on."""
    return lambda step: nats if step >= since else 0.0


def pulse(nats: float, at: int) -> Callable[[int], float]:
    """A disturbance at one step."""
    return lambda step: nats if step == at else 0.0


def modulus(gain: float, lag: int, *, kp: float, ki: float) -> float:
    """Largest |root| of the loop: z^d (z − 1)² + gain·kp (z − 1) + gain·ki; stable below 1."""
    loop = np.zeros(lag + 3)
    loop[:3] = 1, -2, 1
    loop[-2:] += gain * kp, gain * (ki - kp)
    return float(max(abs(np.roots(loop))))


def decay(path: Sequence[float]) -> float:
    """Factor per step by which the swings of the second half die out; above 1 they grow."""
    size = np.abs(np.array(path))
    half = len(size) // 2
    first, last = size[half : half + half // 2].max(), size[half + half // 2 :].max()
    return float((last / first) ** (2 / half)) if first > 0 else 0.0
