"""Measured against predicted change of entropy over step sizes, and the order of the error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sim.tabular import (
    Array,
    TabularPolicy,
    centred_advantages,
    entropy_change,
    entropy_change_by_subtraction,
    entropy_curvature,
    entropy_slope,
    natural_direction,
    vanilla_direction,
)
from sim.theorem1.tables import Chunk

__all__ = ["GRADIENTS", "Fit", "Sweep", "concatenate", "fit_order", "measure"]

GRADIENTS: dict[str, Callable[[TabularPolicy, Array], Array]] = {
    "pg": vanilla_direction,
    "npg": natural_direction,
}
"""Short name → direction of the logits, vanilla and natural policy gradient."""


class Sweep(NamedTuple):
    """What one gradient does to S states at E step sizes. Entropy in nats."""

    gradient: str
    actions: int
    etas: Array
    """η [E]"""
    entropy: Array
    """H before the step [S]"""
    slope: Array
    """−Cov_π(ln π, d) [S]"""
    curvature: Array
    """d²H/dη² [S]"""
    measured: Array
    """ΔH [S, E]"""
    subtracted: Array
    """H(π′) − H(π), with its rounding error [S, E]"""

    def column(self, eta: float) -> int:
        """Index of one of the step sizes."""
        return int(np.flatnonzero(self.etas == eta)[0])

    @property
    def predicted(self) -> Array:
        """−η Cov_π(ln π, d) [S, E]"""
        return self.slope[:, None] * self.etas

    @property
    def error(self) -> Array:
        """measured − predicted [S, E]"""
        return self.measured - self.predicted

    @property
    def pooled_error(self) -> Array:
        """Σ|measured − predicted| / Σ|measured| over states [E]"""
        return np.asarray(np.abs(self.error).sum(0) / np.abs(self.measured).sum(0))


class Fit(NamedTuple):
    """|error| = constant·η^order, by least squares of the logarithms."""

    order: float
    standard_error: float
    constant: float
    """Mean |error| over states at η = 1, nats"""


def measure(chunk: Chunk, etas: Sequence[float]) -> Iterator[Sweep]:
    """One step of every size from every state of the chunk, for each gradient in turn."""
    policy = chunk.policy
    advantages = centred_advantages(policy, chunk.returns)
    for gradient, direction_of in GRADIENTS.items():
        direction = direction_of(policy, advantages)
        measured, subtracted = [], []
        for eta in etas:
            delta = eta * direction
            measured.append(entropy_change(policy, delta))
            subtracted.append(entropy_change_by_subtraction(policy, delta))
        yield Sweep(
            gradient,
            direction.shape[1],
            np.asarray(etas, dtype=np.float64),
            policy.entropy,
            entropy_slope(policy, direction),
            entropy_curvature(policy, direction),
            np.stack(measured, -1),
            np.stack(subtracted, -1),
        )


def concatenate(parts: Sequence[Sweep]) -> Sweep:
    """The states of several sweeps of the same gradient, actions and step sizes as one."""
    first = parts[0]
    return Sweep(
        first.gradient,
        first.actions,
        first.etas,
        *(np.concatenate(values) for values in zip(*(part[3:] for part in parts), strict=True)),
    )


def fit_order(etas: Array, error: Array) -> Fit:
    """Slope of ln(mean |error| over states) against ln η.

    Args:
        etas: η [E], E ≥ 3, distinct and positive.
        error: measured − predicted [S, E], nats.

    Returns:
        Fit; theory gives order 2. All NaN where rounding left no error to fit.

    Raises:
        ValueError: fewer than three step sizes.
    """
    if len(etas) < 3:
        raise ValueError(f"etas: expected at least 3 step sizes to fit an order, got {len(etas)}")
    mean_error = np.abs(error).mean(0)
    if not mean_error.all():
        return Fit(math.nan, math.nan, math.nan)
    x = np.log(etas)
    y = np.log(mean_error)
    x_centred = x - x.mean()
    spread = (x_centred * x_centred).sum()
    order = float((x_centred * y).sum() / spread)
    intercept = float(y.mean() - order * x.mean())
    residual = y - (intercept + order * x)
    variance = float((residual * residual).sum()) / (len(etas) - 2)
    return Fit(order, float(np.sqrt(variance / spread)), float(np.exp(intercept)))
