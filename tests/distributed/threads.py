"""Ranks as threads of one process: any split in milliseconds, where processes take seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = 300.0


class ThreadGroup:
    """Stands for a process group; its members are the threads of run()."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=PATIENCE)
        self._slots: list[Any] = [None] * size
        self._rank = threading.local()

    def run(self, job: Callable[[int], Any]) -> list[Any]:
        """What job(rank) returns on every rank, or the first error."""
        results: list[Any] = [None] * self.size
        errors: list[BaseException] = []

        def member(rank: int) -> None:
            self._rank.value = rank
            try:
                results[rank] = job(rank)
            except BaseException as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=member, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        self._slots[self.rank] = value
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()
        return values

    @property
    def rank(self) -> int:
        return int(self._rank.value)


def all_reduce(x: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
    stacked = torch.stack(group.exchange(x.clone()))
    x.copy_(stacked.amax(0) if op == dist.ReduceOp.MAX else stacked.sum(0))


def all_gather(parts: Sequence[Tensor], x: Tensor, group: Any = None) -> None:
    for part, value in zip(parts, group.exchange(x.clone()), strict=True):
        part.copy_(value)


def all_gather_object(parts: list[Any], x: Any, group: Any = None) -> None:
    parts[:] = group.exchange(x)


@contextmanager
def threads_for_processes() -> Iterator[None]:
    """torch.distributed takes ThreadGroups."""
    with pytest.MonkeyPatch.context() as patch:
        for function in (all_reduce, all_gather, all_gather_object):
            patch.setattr(dist, function.__name__, function)
        patch.setattr(dist, "get_world_size", lambda group: group.size)
        patch.setattr(dist, "get_rank", lambda group: group.rank)
        yield
