"""Responses together with the prompts they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from entropy_ext import Support, TokenStats
from entropy_ext.rl import Rollout
from sim.rlvr.experts import FREE

__all__ = ["Batch", "concatenate", "stats_rows"]


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
    sampler_logp: Tensor
    """[B, T], as the sampler saw them"""
    routing: Tensor | None = None
    """[B, P + T − 1, layers] int64: experts the sampler went through, of a model with experts"""

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def texts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prompt, prompt_mask, tokens and mask: what a forward pass reads."""
        return self.prompt, self.prompt_mask, self.rollout.tokens, self.rollout.mask

    @property
    def support(self) -> Support | None:
        """The rollout's kept sets."""
        return cast(Support | None, self.rollout.support)

    def rows(self, index: Tensor | slice) -> Batch:
        """The responses at `index`."""
        return Batch(
            self.prompt[index],
            self.prompt_mask[index],
            self.rollout.rows(index),
            stats_rows(self.stats, index),
            self.sampler_logp[index],
            None if self.routing is None else self.routing[index],
        )


def stats_rows(stats: TokenStats, index: Tensor | slice) -> TokenStats:
    """The responses at `index`, of what there is."""
    return TokenStats._make(None if value is None else value[index] for value in stats)


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
    if rollouts[0].support is not None:
        joined["support"] = _stack_supports(rollouts, width)
    routing = [batch.routing for batch in batches if batch.routing is not None]
    longest = max((part.shape[1] for part in routing), default=0)
    return Batch(
        torch.cat([batch.prompt for batch in batches]),
        torch.cat([batch.prompt_mask for batch in batches]),
        rollouts[0].replace(**joined),
        TokenStats._make(
            None if values[0] is None else _stack(values, width)
            for values in zip(*(batch.stats for batch in batches), strict=True)
        ),
        _stack([batch.sampler_logp for batch in batches], width),
        torch.cat([pad(part, (0, 0, 0, longest - part.shape[1]), value=FREE) for part in routing])
        if routing
        else None,
    )


def _stack(values: Sequence[Any], width: int) -> Tensor:
    if values[0].ndim == 2:
        values = [pad(value, (0, width - value.shape[1])) for value in values]
    return torch.cat(list(values))


def _stack_supports(rollouts: Sequence[Rollout], width: int) -> Support:
    """Ids stay in their order, for the tokens that pad a row have none."""
    supports = [cast(Support, rollout.support) for rollout in rollouts]
    lengths = _stack(
        [
            support.offsets.diff().reshape(rollout.mask.shape)
            for support, rollout in zip(supports, rollouts, strict=True)
        ],
        width,
    )
    offsets = pad(lengths.flatten().cumsum(0), (1, 0))
    return Support(offsets, torch.cat([support.ids for support in supports]))
