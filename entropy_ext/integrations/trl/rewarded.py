"""The rewards of each response, and the rollout fields derived from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rewarded"]


@dataclass(frozen=True)
class Rewarded:
    """B responses of this rank."""

    rewards: Tensor
    """[B, F], one per reward function, NaN where it gave none"""
    weights: Tensor
    """[F]"""
    truncated: Tensor
    """[B] bool: stopped by the length limit"""
    answers: Sequence[Hashable | None] | None
    domain: Sequence[int | None]
    """of each response's prompt"""

    @property
    def scored(self) -> Tensor:
        """[B] bool: at least one function gave a reward."""
        return ~self.rewards.isnan().all(dim=1)

    @property
    def total(self) -> Tensor:
        """[B]: the weighted sum, as in TRL."""
        return (self.rewards * self.weights).nansum(dim=1)

    def fields(
        self, needs: Collection[str], correct: Callable[[Tensor], Tensor] | None
    ) -> dict[str, Any]:
        """Those optional Rollout fields among `needs` that are known here.

        Args:
            needs: names of fields.
            correct: function from the rewards to [B] bool; None: whether the total is positive.

        Raises:
            ValueError: a prompt has no domain although it is needed.
        """
        fields: dict[str, Any] = {}
        if "correct" in needs:
            fields["correct"] = (self.total > 0) if correct is None else correct(self.rewards)
        if "truncated" in needs:
            fields["truncated"] = self.truncated
        if "answers" in needs:
            fields["answers"] = self.answers
        if "domain" in needs:
            for value in self.domain:
                if not isinstance(value, int):
                    raise ValueError(
                        "domain: expected an integer in every row of the data sets, that for "
                        f"validation included, got {value!r}"
                    )
            fields["domain"] = torch.tensor(self.domain, device=self.rewards.device)
        return fields
