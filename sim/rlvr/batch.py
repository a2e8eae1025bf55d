"""Responses together with the prompts they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from entropy_ext import TokenStats
from entropy_ext.rl import Rollout

__all__ = ["Batch", "concatenate"]


@dataclass(frozen=True)
class Batch:
    """B responses, their prompts, and what the policy that wrote them thought of them."""

    prompt: Tensor
    """[B, P] int64, padded on the left"""
    prompt_mask: Tensor
    """[B, P] bool"""
    rollout: Rollout
    stats: TokenStats
    """[B, T] each, of the policy before the first update on this rollout"""

    def __len__(self) -> int:
        return len(self.prompt)

    def rows(self, index: Tensor | slice) -> Batch:
        """The responses at `index`."""
        return Batch(
            self.prompt[index],
            self.prompt_mask[index],
            self.rollout.rows(index),
            TokenStats(*(value[index] for value in self.stats if value is not None)),
        )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch of all the responses, the shorter ones padded to the longest."""
    if len(batches) == 1:
        return batches[0]
    width = max(batch.rollout.mask.shape[1] for batch in batches)
    rollouts = [batch.rollout for batch in batches]
    joined: dict[str, Any] = {}
    for field in fields(Rollout):
        values = [getattr(rollout, field.name) for rollout in rollouts]
        if isinstance(values[0], Tensor):
            joined[field.name] = _stack(values, width)
    if rollouts[0].answers is not None:
        joined["answers"] = [answer for rollout in rollouts for answer in rollout.answers or ()]
    stats = zip(*(batch.stats[:3] for batch in batches), strict=True)
    return Batch(
        torch.cat([batch.prompt for batch in batches]),
        torch.cat([batch.prompt_mask for batch in batches]),
        rollouts[0].replace(**joined),
        TokenStats(*(_stack(values, width) for values in stats)),
    )


def _stack(values: Sequence[Any], width: int) -> Tensor:
    if values[0].ndim == 2:
        values = [pad(value, (0, width - value.shape[1])) for value in values]
    return torch.cat(list(values))
