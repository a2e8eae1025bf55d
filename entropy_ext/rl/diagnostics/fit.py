"""The relation between performance and entropy, fitted to a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from entropy_ext.rl.checks import check_bound

__all__ = ["EntropyFit", "fit_entropy_performance"]


class EntropyFit(NamedTuple):
    """The fitted law R = b − a·exp(H)."""

    a: float
    b: float
    ceiling: float
    """b − a, the performance at entropy 0"""
    r2: float
    """fraction of the variance of the performance that the law explains"""
    interval: tuple[float, float]
    """confidence interval of the ceiling"""


def fit_entropy_performance(
    entropy: Sequence[float] | Tensor,
    performance: Sequence[float] | Tensor,
    *,
    confidence: float = 0.95,
) -> EntropyFit:
    """Predicts the performance of a run at entropy 0.

    Least squares in x = exp(H) for R = b − a·x. The interval of the ceiling b − a is that of the
    line at x = 1, from Student's t with n − 2 degrees of freedom. It assumes independent residuals;
    the steps of a run are not quite independent, so the true interval is wider.

    "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models"
    (arXiv 2505.22617, section 2), whose entropy is a mean over responses of the mean over tokens.

    Args:
        entropy: n ≥ 3 values of H, nats; not all equal. A list or a [n] tensor.
        performance: n values of R, such as accuracies, likewise.
        confidence: confidence level of the interval, between 0 and 1.

    Returns:
        EntropyFit of floats.

    Raises:
        ValueError: too few points, lists of different lengths, a value that is not finite, or
            entropies that are all equal.
    """
    check_bound("confidence", confidence, above=0, at_most=1 - 1e-9)
    entropy, performance = (
        values.tolist() if isinstance(values, Tensor) else values
        for values in (entropy, performance)
    )
    n = len(entropy)
    if len(performance) != n:
        raise ValueError(f"performance: expected {n} values, got {len(performance)}")
    if n < 3:
        raise ValueError(f"entropy: expected at least 3 values, got {n}")
    for name, values in (("entropy", entropy), ("performance", performance)):
        for i, value in enumerate(values):
            if not math.isfinite(value):
                raise ValueError(f"{name}: expected finite values, got {value} at {i}")

    x = [math.exp(h) for h in entropy]
    # Subtract the first, so that equal performances have no variance from rounding.
    first = float(performance[0])
    y = [float(r) - first for r in performance]
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    spread = math.fsum((u - mean_x) ** 2 for u in x)
    if spread == 0:
        raise ValueError(f"entropy: expected values that differ, got {entropy[0]} alone")
    slope = math.fsum((u - mean_x) * (v - mean_y) for u, v in zip(x, y, strict=True)) / spread
    residual = math.fsum(
        (v - mean_y - slope * (u - mean_x)) ** 2 for u, v in zip(x, y, strict=True)
    )
    total = math.fsum((v - mean_y) ** 2 for v in y)
    ceiling = first + mean_y + slope * (1 - mean_x)
    error = math.sqrt(residual / (n - 2) * (1 / n + (1 - mean_x) ** 2 / spread))
    margin = _student_t(confidence, n - 2) * error
    return EntropyFit(
        a=-slope,
        b=first + mean_y - slope * mean_x,
        ceiling=ceiling,
        r2=1.0 if total == 0 else 1 - residual / total,
        interval=(ceiling - margin, ceiling + margin),
    )


def _student_t(confidence: float, dof: int) -> float:
    """t with P(|T| < t) = confidence, by bisection in θ = atan(t/√dof)."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _coverage(middle, dof) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan(low)


def _coverage(theta: float, dof: int) -> float:
    """P(|T| < √dof·tan θ), a finite sum for integer degrees of freedom."""
    # Abramowitz and Stegun, 26.7.3 and 26.7.4.
    sine, cosine = math.sin(theta), math.cos(theta)
    if dof == 1:
        return 2 * theta / math.pi
    if dof % 2 == 0:
        term = total = 1.0
        for k in range(1, dof // 2):
            term *= (2 * k - 1) / (2 * k) * cosine**2
            total += term
        return sine * total
    term = total = cosine
    for k in range(1, (dof - 1) // 2):
        term *= 2 * k / (2 * k + 1) * cosine**2
        total += term
    return 2 / math.pi * (theta + sine * total)
