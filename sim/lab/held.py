"""The responses one seed learns from in a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor

from entropy_ext import Support, TokenStats
from entropy_ext.rl import Rollout
from sim.lab.sampler import Samples

__all__ = ["Held", "concatenate", "hold", "stats_map"]


@dataclass(frozen=True)
class Held:
    """B responses with what the harness must know of them beside the Rollout."""

    rollout: Rollout
    stats: TokenStats
    """[B, T] each, of the policy that wrote them"""
    prompt: Tensor
    """[B] int64: which of the task's prompts"""
    response: Tensor
    """[B] int64: which of the tree's responses"""
    kept: Tensor | None
    """[B, T, V] bool: what the sampler kept"""

    def __len__(self) -> int:
        return len(self.prompt)

    def rows(self, index: Tensor | slice) -> Held:
        """The responses at `index`."""
        return Held(
            self.rollout.rows(index),
            stats_map(self.stats, lambda value: value[index]),
            self.prompt[index],
            self.response[index],
            None if self.kept is None else self.kept[index],
        )


def hold(samples: Samples, seed: int) -> Held:
    """What was drawn for one seed."""
    everything = Held(
        samples.rollout(seed),
        stats_map(samples.stats, lambda value: value[seed]),
        samples.prompt[seed],
        samples.response[seed],
        None if samples.kept is None else samples.kept[seed],
    )
    live = samples.live[seed]
    return everything if bool(live.all()) else everything.rows(live)


def concatenate(parts: Sequence[Held]) -> Held:
    """One after the other."""
    if len(parts) == 1:
        return parts[0]
    rollouts = [part.rollout for part in parts]
    joined: dict[str, Any] = {}
    for field in fields(Rollout):
        values = [getattr(rollout, field.name) for rollout in rollouts]
        if isinstance(values[0], Tensor):
            joined[field.name] = torch.cat(values)
    joined["answers"] = [answer for rollout in rollouts for answer in rollout.answers or ()]
    if rollouts[0].support is not None:
        supports = [cast(Support, rollout.support) for rollout in rollouts]
        lengths = torch.cat([support.offsets.diff() for support in supports])
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        joined["support"] = Support(offsets, torch.cat([support.ids for support in supports]))
    stats = {
        name: torch.cat([getattr(part.stats, name) for part in parts])
        for name, value in parts[0].stats._asdict().items()
        if value is not None
    }
    kept = [part.kept for part in parts if part.kept is not None]
    return Held(
        rollouts[0].replace(**joined),
        parts[0].stats._replace(**stats),
        torch.cat([part.prompt for part in parts]),
        torch.cat([part.response for part in parts]),
        torch.cat(kept) if kept else None,
    )


def stats_map(stats: TokenStats, change: Callable[[Tensor], Tensor]) -> TokenStats:
    """The change of each of what there is."""
    found = {name: change(value) for name, value in stats._asdict().items() if value is not None}
    return stats._replace(**found)
