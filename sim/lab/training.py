"""Whole training runs, measured on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from entropy_ext.recipes import Recipe
from sim.lab.harness import Trainer
from sim.lab.measures import KS, History, Probe
from sim.lab.task import Task

__all__ = ["train"]


def train(
    task: Task,
    recipe: Callable[[], Recipe],
    *,
    steps: int,
    learning_rate: float | Tensor,
    every: int = 1,
    ks: Sequence[int] = KS,
    probe: Probe | None = None,
    **options: Any,
) -> History:
    """A whole run, measured before it, after every `every` steps and at the end.

    Args:
        task: of N seeds.
        recipe: makes a recipe; called once for each seed.
        steps: training steps.
        learning_rate: of the policy, one for all seeds or [N].
        every: steps from one measurement to the next.
        ks: the k of pass@k.
        probe: further exact measures.
        options: the remaining arguments of `Trainer`.
    """
    trainer = Trainer(task, recipe, steps=steps, learning_rate=learning_rate, **options)
    at = [0]
    rows = [trainer.measure(ks, probe)]
    while trainer.done < steps:
        trainer.step()
        if trainer.done % every == 0 or trainer.done == steps:
            at.append(trainer.done)
            rows.append(trainer.measure(ks, probe))
    values = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return History(at, values, trainer.parameters.detach())
