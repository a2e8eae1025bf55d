"""What a training step does to responses by their rank: the likeliest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from entropy_ext.recipes import Recipe
from sim.lab.exact import Policy
from sim.lab.harness import Trainer
from sim.lab.task import Task

__all__ = ["rank_changes"]


def rank_changes(
    task: Task, recipe: Callable[[], Recipe], *, ranks: int, copies: int, learning_rate: float
) -> Tensor:
    """Right responses, the likeliest first, and what one training step does to them.

    Args:
        task: of one prompt and N seeds; none with fewer right responses than ranks.
        recipe: makes a recipe; called once for each seed.
        ranks: R, how many right responses.
        copies: of the prompt in the step, each with a group of its own; the change is their mean,
            near the expectation over groups.
        learning_rate: of a step on a single copy.

    Returns:
        [N, R, 2]: probability before the step, mean change of ln π.
    """
    before = Policy.of(task.tree, task.start).response_logp[:, 0]
    likely = before.masked_fill(~task.correct[:, 0], -torch.inf)
    order = likely.argsort(-1, descending=True)[:, :ranks]
    rate = learning_rate * copies
    trainer = Trainer(_copies(task, copies), recipe, steps=1, learning_rate=rate)
    trainer.step()
    change = (trainer.policy.response_logp - before[:, None]).mean(1).gather(-1, order)
    return torch.stack([before.exp().gather(-1, order), change], -1)


def _copies(task: Task, count: int) -> Task:
    parts = {
        name: getattr(task, name).expand(-1, count, *getattr(task, name).shape[2:]).contiguous()
        for name in ("start", "correct", "answers")
    }
    return replace(task, **parts)
