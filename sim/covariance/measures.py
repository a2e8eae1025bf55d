"""How well a form orders and explains the true changes, and how much of them a choice holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.covariance.changes import Forecast, forecast, true_changes
from sim.covariance.policies import Point
from sim.tabular import Array

__all__ = [
    "SHARES",
    "FormResult",
    "Measurement",
    "SelectorResult",
    "captured",
    "compare",
    "greatest",
    "measure",
    "relative_error",
    "spearman",
]

SHARES = (2e-4, 2e-3, 2e-2, 0.2)
"""Of the tokens: what Clip-Cov, KL-Cov and the 80/20 rule choose, and a hundredfold of Clip-Cov."""


class FormResult(NamedTuple):
    """One form against the true changes of one point at one step size."""

    form: str
    rank_size: float
    """Spearman's correlation of |prediction| with |ΔH|"""
    rank_signed: float
    """of the prediction with ΔH"""
    relative_error: float
    """‖ΔH − c·prediction‖/‖ΔH‖ at the best c: 0 for a form that is right up to a constant"""
    shares: tuple[float, ...]
    """of Σ|ΔH|, held by the tokens of greatest |prediction|, for each of SHARES"""


class SelectorResult(NamedTuple):
    """What one selector chose, with its paper's settings; of a random one the mean of its draws."""

    selector: str
    tokens: int
    share: float
    """of Σ|ΔH|"""
    share_exact: float
    """of Σ|ΔH|, held by as many tokens of the greatest exact first-order form"""
    share_random: float
    """of the tokens: what a blind choice holds on average"""
    falls: float
    """of Σ max(−ΔH, 0), the falls of entropy that selection by covariance aims at"""


class Measurement(NamedTuple):
    """One point at one step size."""

    point: str
    eta: float
    tokens: int
    entropy: float
    """mean before the step, nats"""
    forms: list[FormResult]
    selectors: list[SelectorResult]


def measure(point: Point, etas: Sequence[float], seed: int) -> Iterator[Measurement]:
    """A Measurement for every step size η; `seed` is that of Clip-Cov's first draw."""
    known = forecast(point, seed)
    for eta in etas:
        yield compare(point.name, eta, known, true_changes(point, eta))


def compare(name: str, eta: float, known: Forecast, truth: Array) -> Measurement:
    """What is known of the tokens, against their true changes ΔH [N]."""
    size = np.abs(truth)
    forms = []
    for form, change in known.changes.items():
        score = np.abs(change)
        shares = tuple(captured(greatest(score, share), size) for share in SHARES)
        forms.append(
            FormResult(
                form,
                spearman(score, size),
                spearman(change, truth),
                relative_error(change, truth),
                shares,
            )
        )
    selectors = []
    for selector, draws in known.picked.items():
        count = int(draws[0].sum())
        exact = greatest(np.abs(known.changes["exact"]), count / len(truth))
        often = draws.mean(0)
        falls = np.maximum(-truth, 0.0)
        selectors.append(
            SelectorResult(
                selector,
                count,
                float(often @ size / size.sum()),
                captured(exact, size),
                count / len(truth),
                float(often @ falls / falls.sum()),
            )
        )
    return Measurement(name, eta, len(truth), known.entropy, forms, selectors)


def spearman(x: Array, y: Array) -> float:
    """Pearson's correlation of the ranks, equal values sharing their mean rank. NaN if constant."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread else float("nan")


def _ranks(x: Array) -> Array:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - 0.5 * (counts - 1))[place])


def relative_error(prediction: Array, truth: Array) -> float:
    """‖truth − c·prediction‖/‖truth‖ at the c that makes it least; 1 for a prediction of zeros."""
    square = float(prediction @ prediction)
    best = float(prediction @ truth) / square if square else 0.0
    return float(np.linalg.norm(truth - best * prediction) / np.linalg.norm(truth))


def greatest(score: Array, share: float) -> NDArray[np.bool_]:
    """The round(share·N) tokens of greatest score, at least one; equal scores in their order."""
    count = max(1, round(share * len(score)))
    chosen = np.zeros(len(score), dtype=np.bool_)
    chosen[np.argsort(-score, kind="stable")[:count]] = True
    return chosen


def captured(chosen: NDArray[np.bool_], weight: Array) -> float:
    """Of the weight, what the chosen tokens hold."""
    return float(weight[chosen].sum() / weight.sum())
