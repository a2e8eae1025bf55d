"""Responses sampled once, for recipes that learn from stored data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entropy_ext import TokenStats
from sim.rlvr.batch import stats_rows
from sim.rlvr.sampling import Samples

__all__ = ["Stored"]


@dataclass(frozen=True)
class Stored:
    """Groups of responses by the policy at the start, and what it thought of them."""

    problems: Tensor
    """[N] int64, each once"""
    samples: Samples
    """of N groups"""
    stats: TokenStats

    def draw(
        self, weights: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Samples, TokenStats]:
        """`count` groups at most, none twice.

        Args:
            weights: [P] ≥ 0, of all problems of the task.
            count: groups.
            generator: source of chance.
        """
        mine = weights[self.problems]
        if not (mine > 0).any():
            raise ValueError("stored data: none of its problems has a weight above 0")
        count = min(count, int((mine > 0).sum()))
        groups = torch.multinomial(mine, count, generator=generator)
        members = torch.arange(len(self.samples.tokens)).view(len(self.problems), -1)
        rows = members[groups].flatten()
        return self.problems[groups], self.samples.rows(rows), stats_rows(self.stats, rows)

    def state_dict(self) -> dict[str, Any]:
        return {
            "problems": self.problems,
            "samples": vars(self.samples),
            "stats": self.stats._asdict(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Stored:
        """What `state_dict` was taken of."""
        return cls(state["problems"], Samples(**state["samples"]), TokenStats(**state["stats"]))
