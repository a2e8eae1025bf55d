"""What a training step does to responses by their rank: the likeliest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from entropy_ext.recipes import Recipe
from sim.lab.compare import Arm
from sim.lab.exact import Policy
from sim.lab.harness import Trainer
from sim.lab.tables import Table
from sim.lab.task import Task

__all__ = ["mean_change", "rank_changes", "rank_table"]


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


def rank_table(
    task: Task, arms: Mapping[str, Arm], *, ranks: int, copies: int, learning_rate: float
) -> Table:
    """`rank_changes` of every arm: arm, seed, rank (1 the likeliest), chance, change."""
    rows: list[tuple[str, int, int, float, float]] = []
    for name, side in arms.items():
        found = rank_changes(
            task, side.recipe, ranks=ranks, copies=copies, learning_rate=learning_rate
        )
        for seed, pairs in enumerate(found.tolist()):
            rows += [(name, seed, rank, *pair) for rank, pair in enumerate(pairs, 1)]
    return Table.of(("arm", "seed", "rank", "chance", "change"), rows)


def mean_change(table: Table, arm: str, ranks: Sequence[int]) -> list[float]:
    """Of each seed: mean change of ln π over some ranks of an arm's rows in a `rank_table`."""
    rows = table.where(arm=arm)
    columns = [rows.numbers("change", rank=rank) for rank in ranks]
    return [sum(row) / len(row) for row in zip(*columns, strict=True)]


def _copies(task: Task, count: int) -> Task:
    parts = {
        name: getattr(task, name).expand(-1, count, *getattr(task, name).shape[2:]).contiguous()
        for name in ("start", "correct", "answers")
    }
    return replace(task, **parts)
