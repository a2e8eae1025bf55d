"""Schedules for the weight of tokens with positive advantage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.controllers.base import Controller

__all__ = ["EntropyGuided", "epoch_weight", "stage_weight"]


class EntropyGuided(Controller):
    """Lowers the weight of positive tokens while entropy is below a threshold, else raises it.

    λₖ₊₁ = clip(λₖ − delta if Hₖ < threshold else λₖ + delta, 0, 1); step k uses λₖ.

    "Revisiting Entropy in Reinforcement Learning for Large Reasoning Models" (arXiv 2511.05993),
    known only from notes; that Hₖ = threshold raises λ is an assumption.

    Args:
        threshold: nats.
        delta: change per step.
        initial: λ₀.

    Raises:
        ValueError: a bound out of range.
    """

    def __init__(
        self, threshold: float = 0.2, *, delta: float = 0.05, initial: float = 0.0
    ) -> None:
        check_bound("threshold", threshold, finite=True)
        check_bound("delta", delta, at_least=0)
        check_bound("initial", initial, at_least=0, at_most=1)
        super().__init__(weight=initial)
        self.threshold = threshold
        self.delta = delta

    def advance(
        self, measured: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weight before this measurement, and the one after it."""
        weight = state["weight"]
        moved = torch.where(measured < self.threshold, weight - self.delta, weight + self.delta)
        return weight, {"weight": moved.clamp(0, 1)}


def stage_weight(progress: float, *, start: float = 0.5) -> float:
    """0 up to `start`, then rising linearly to 1 at the end of training.

    arXiv 2511.05993, "stage-based", known only from notes.

    Args:
        progress: fraction of training done, 0 to 1.
        start: the progress at which the rise begins, in [0, 1).

    Raises:
        ValueError: a bound out of range.
    """
    check_bound("progress", progress, at_least=0, at_most=1)
    check_bound("start", start, at_least=0)
    check_bound("1 - start", 1 - start, above=0)
    return max(progress - start, 0.0) / (1 - start)


def epoch_weight(progress: float, *, epochs: int) -> float:
    """(e − 1)/(E − 1) in epoch e of E: 0 in the first, 1 in the last, and 1 if there is only one.

    arXiv 2511.05993, "epoch-wise", known only from notes.

    Args:
        progress: fraction of training done, 0 to 1.
        epochs: E, passes over the training set.

    Raises:
        ValueError: a bound out of range.
    """
    check_bound("progress", progress, at_least=0, at_most=1)
    check_bound("epochs", epochs, at_least=1, integer=True)
    finished = min(int(progress * epochs), epochs - 1)
    return finished / (epochs - 1) if epochs > 1 else 1.0
