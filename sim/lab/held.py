"""The responses that seeds learn from in a step: those with equally many together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from entropy_ext.rl import Rollout
from sim.lab.sampler import Samples, support

__all__ = ["Held", "Named", "apart", "concatenate", "hold", "pick", "side_by_side", "split"]

Named: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Held:
    """B responses for each of M seeds; leading dimensions [M, B]."""

    seeds: Tensor
    """[M] int64: places among the task's"""
    common: Mapping[str, Any]
    """Rollout fields that are the same for all"""
    fields: Named
    """the other Rollout fields"""
    stats: Named
    """[M, B, T] each, of the policy that wrote them"""
    own: Named
    """prompt, response: which of the task's and the tree's. kept [M, B, T, V] bool: what the
    sampler kept, if recipes are told"""

    def __len__(self) -> int:
        return self.own["prompt"].shape[1]

    def pick(self, places: Tensor, rows: Tensor) -> Held:
        """Some of the seeds [m] and for each of them the responses at `rows` [m, b]."""
        return replace(
            self,
            seeds=self.seeds[places],
            fields=pick(self.fields, places, rows),
            stats=pick(self.stats, places, rows),
            own=pick(self.own, places, rows),
        )

    def shaped(self, rewards: Tensor) -> Held:
        """With other rewards, [M, B]."""
        return replace(self, fields={**self.fields, "rewards": rewards})

    def rollouts(self) -> list[Rollout]:
        """What a recipe sees of each seed."""
        every = {name: value.unbind() for name, value in self.fields.items()}
        found = []
        for m in range(len(self.seeds)):
            mine: dict[str, Any] = {name: values[m] for name, values in every.items()}
            answers = mine.pop("answers").tolist()
            mine["answers"] = [None if answer < 0 else answer for answer in answers]
            if "kept" in self.own:
                mine["support"] = support(self.own["kept"][m])
            found.append(Rollout(**self.common, **mine))
        return found


def pick(part: Named, places: Tensor, rows: Tensor) -> Named:
    """[m, b, …] from [M, B, …]: of the seeds at `places` [m] the responses at `rows` [m, b]."""
    return {name: value[places[:, None], rows] for name, value in part.items()}


def hold(samples: Samples) -> Held:
    """All that was drawn, fillers included."""
    own = {"prompt": samples.prompt, "response": samples.response}
    if samples.kept is not None:
        own["kept"] = samples.kept
    stats = {name: x for name, x in samples.stats._asdict().items() if x is not None}
    seeds = torch.arange(len(samples.prompt))
    return Held(seeds, samples.common, samples.fields, stats, own)


def concatenate(parts: Sequence[Held]) -> Held:
    """The responses of the same seeds, one after the other."""
    if len(parts) == 1:
        return parts[0]

    def joined(every: Sequence[Named]) -> Named:
        return {name: torch.cat([part[name] for part in every], 1) for name in every[0]}

    return replace(
        parts[0],
        fields=joined([part.fields for part in parts]),
        stats=joined([part.stats for part in parts]),
        own=joined([part.own for part in parts]),
    )


def split(held: Held, which: Tensor) -> list[tuple[Held, Tensor]]:
    """Of each seed the responses at `which` [M, B] bool, seeds with equally many together.

    Returns:
        each part, no seed of which is without a response, and its rows [m, b] in `held`.
    """
    counts = which.sum(1)
    order = (~which).int().argsort(dim=1, stable=True)
    if bool(which.all()):
        return [(held, order)] if len(held) else []
    parts = []
    for count in counts.unique().tolist():
        if count:
            (places,) = torch.where(counts == count)
            rows = order[places, :count]
            parts.append((held.pick(places, rows), rows))
    return parts


def side_by_side(batch: Sequence[Held], seeds: int) -> Named:
    """`own` and the mask of all the task's seeds, [N, B, …], shorter ones filled up with 0."""
    parts = [(mine.seeds, {**mine.own, "mask": mine.fields["mask"]}) for mine in batch]
    width = max(map(len, batch))
    if len(batch) == 1 and len(batch[0].seeds) == seeds:
        return parts[0][1]
    whole = {
        name: value.new_zeros(seeds, width, *value.shape[2:]) for name, value in parts[0][1].items()
    }
    for places, part in parts:
        for name, value in part.items():
            whole[name][places, : value.shape[1]] = value
    return whole


def apart(whole: Named, batch: Sequence[Held]) -> list[Named]:
    """Of numbers of all seeds [N, B, …] those of each part, [M, b, …]."""
    sizes = [len(mine.seeds) for mine in batch]
    order = torch.cat([mine.seeds for mine in batch])
    # All at once and then split: its backward puts the gradients together once.
    ordered = {name: value[order].split(sizes) for name, value in whole.items()}
    return [
        {name: values[place][:, : len(mine)] for name, values in ordered.items()}
        for place, mine in enumerate(batch)
    ]
