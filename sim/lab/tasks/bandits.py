"""Bandits: one prompt, one token per response."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sim.lab.draws import normals, uniforms
from sim.lab.task import Task
from sim.lab.tree import grow

__all__ = ["needle", "random_bandit", "two_modes"]

START, RIGHT = 0, 1
"""streams of random numbers"""


def random_bandit(
    seeds: Sequence[int], *, arms: int = 16, right: int = 4, spread: float = 1.5
) -> Task:
    """Random prior, random right arms.

    Args:
        seeds: N seeds.
        arms: V.
        right: how many arms are right.
        spread: standard deviation of the logits at the start.
    """
    _check("right", right, 1, arms - 1)
    numbers = torch.tensor(seeds)
    start = spread * normals(numbers, START, shape=(arms,))
    rank = uniforms(numbers, RIGHT, shape=(arms,)).argsort(-1).argsort(-1)
    return _bandit("random_bandit", numbers, start, rank < right)


def needle(
    seeds: Sequence[int], *, arms: int = 16, prior: float = 0.01, spread: float = 1.5
) -> Task:
    """One right arm, which the prior gives exactly the probability `prior`."""
    if not 0 < prior < 1:
        raise ValueError(f"prior: expected a number in (0, 1), got {prior}")
    numbers = torch.tensor(seeds)
    start = spread * normals(numbers, START, shape=(arms,))
    # The right arm is the last one; which it is makes no difference to a table.
    rest = start[:, :-1].logsumexp(-1, keepdim=True)
    last = rest + torch.log(torch.tensor(prior / (1 - prior), dtype=torch.float64))
    correct = torch.zeros_like(start, dtype=torch.bool)
    correct[:, -1] = True
    return _bandit("needle", numbers, torch.cat([start[:, :-1], last], -1), correct)


def two_modes(
    seeds: Sequence[int],
    *,
    arms: int = 16,
    likely: float = 0.3,
    rare: float = 0.02,
    spread: float = 0.5,
) -> Task:
    """Two right arms, of which the prior knows one well and the other hardly.

    What becomes of the rare one tells a method that sharpens from one that explores.

    Args:
        seeds: N seeds.
        arms: V ≥ 3; all but the first two are wrong.
        likely: prior probability of the first right arm, exactly.
        rare: prior probability of the second right arm, exactly.
        spread: standard deviation of the logits of the wrong arms.
    """
    _check("arms", arms, 3, 2**20)
    if not 0 < rare <= likely < 1 - rare:
        raise ValueError(f"likely, rare: expected 0 < rare ≤ likely < 1 − rare, got {likely, rare}")
    numbers = torch.tensor(seeds)
    wrong = (spread * normals(numbers, START, shape=(arms - 2,))).log_softmax(-1)
    modes = torch.tensor([likely, rare], dtype=torch.float64)
    start = torch.cat([modes.log().expand(len(seeds), 2), wrong + (1 - modes.sum()).log()], -1)
    correct = (torch.arange(arms) < 2).repeat(len(seeds), 1)
    return _bandit("two_modes", numbers, start, correct)


def _bandit(name: str, seeds: Tensor, start: Tensor, correct: Tensor) -> Task:
    """Each arm is an answer of its own."""
    arms = start.shape[-1]
    return Task(
        name=name,
        tree=grow(arms, 1),
        seeds=seeds,
        start=start[:, None, None],
        correct=correct[:, None],
        answers=torch.arange(arms).repeat(len(seeds), 1, 1),
    )


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")
