"""A seed for each optimizer step; resuming from a checkpoint gives the same seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["StepSeed"]


class StepSeed:
    """Counts optimizer steps, starting from a first seed.

    Args:
        first: the seed of the first step; the same on every rank.
    """

    def __init__(self, first: int = 0) -> None:
        self._next = first

    def step(self) -> int:
        """This step's seed."""
        self._next += 1
        return self._next - 1

    def state_dict(self) -> dict[str, Any]:
        """The seed of the next step."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._next = state["next"]
