"""Means over seeds and how sure they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Interval",
    "exactly",
    "interval",
    "order",
    "paired",
    "rank_correlation",
    "ratio",
    "t_quantile",
]


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval; low = high for what is exact."""

    value: float
    low: float
    high: float
    samples: int
    """independent ones behind it, 0 for what is exact"""

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.value:#.5g}" if self.value else "0"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def exactly(value: float) -> Interval:
    """A number without an error bar."""
    return Interval(value, value, value, 0)


def interval(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of independent values.

    Raises:
        ValueError: fewer than 10 values; the interval would mean little.
    """
    count = len(values)
    if count < 10:
        raise ValueError(f"values: expected at least 10, got {count}")
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = t_quantile(0.975, count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


def paired(left: Sequence[float], right: Sequence[float]) -> Interval:
    """`interval` of the differences left − right on the same seeds."""
    return interval([a - b for a, b in zip(left, right, strict=True)])


def ratio(left: Sequence[float], right: Sequence[float]) -> Interval:
    """`interval` of the ratios left / right on the same seeds."""
    return interval([a / b for a, b in zip(left, right, strict=True)])


def order(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """By which power of a size an error grows: slope of the best line through their logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t: the expansion in 1/freedom (Abramowitz and Stegun 26.7.5).

    Right to 2e-5 for 9 or more degrees of freedom.
    """
    z = statistics.NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(freedom) ** power for power, term in enumerate(terms, 1))


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's ρ; equal values share their mean rank. NaN where a side has but one value.

    Raises:
        ValueError: sides of different length.
    """
    if len(left) != len(right):
        raise ValueError(f"right: expected {len(left)} values as in left, got {len(right)}")
    x, y = _centred_ranks(left), _centred_ranks(right)
    scale = math.sqrt(float((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else math.nan


def _centred_ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return np.asarray(ranks - ranks.mean(), dtype=np.float64)
