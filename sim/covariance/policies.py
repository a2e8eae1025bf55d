"""Tabular policies, responses sampled from them, and points along a policy-gradient run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from entropy_ext.rl.advantages import group_zscore

__all__ = ["LEARNING_RATE", "Point", "Sizes", "points"]

SCALES = (0.5, 8.0)
"""Range of the standard deviation of random logits, drawn log-uniformly: flat to almost certain."""
LEADS = (4.0, 16.0)
"""Range by which the likeliest logit of a peaked state stands above the others, drawn uniformly."""
START_SCALE = 2.0
"""Standard deviation of the logits from which the run starts."""
LEARNING_RATE = 4.0
"""Step on the logits along the gradient of the mean of A·ln π over a state's samples."""


class Sizes(NamedTuple):
    """P prompts, G responses to each, of T tokens out of A actions: P·T states, P·G·T tokens."""

    prompts: int = 128
    group: int = 16
    length: int = 16
    actions: int = 128


class Point(NamedTuple):
    """A policy, and tokens that it or an earlier one sampled."""

    name: str
    logits: Tensor
    """of the policy whose entropy is to change [P, T, A], float64"""
    old_logits: Tensor
    """of the policy that sampled [P, T, A]"""
    tokens: Tensor
    """[P, G, T] int64"""
    advantages: Tensor
    """[P, G, T]; each response's own at all of its tokens"""
    mask: Tensor
    """[P, G, T] bool: false where all responses to the prompt had one reward"""


def points(sizes: Sizes, steps: list[int], seed: int) -> Iterator[Point]:
    """A random and a peaked table, then the policies of a run after the given numbers of updates.

    Every point of the run is met twice: with tokens of the policy itself, and after one update on
    them, so that the ratio is not 1. Position t of a prompt is a state whatever stands before it.
    A response is right with the mean over its tokens of value(state, action), u³ with u uniform:
    most actions are poor, a few good. Advantages are the group's z-scores.

    Args:
        sizes: of the table and of the sample.
        steps: of the run, ascending, ≥ 0.
        seed: of everything random.
    """
    states = (sizes.prompts, sizes.length)
    random = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(*states, sizes.actions, generator=random, dtype=torch.float64)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=random, dtype=torch.float64)

    values = uniform(0.0, 1.0, *states, sizes.actions) ** 3
    scale = uniform(math.log(SCALES[0]), math.log(SCALES[1]), *states, 1).exp()
    yield _sampled("random", normal() * scale, values, sizes.group, random)
    peaked = normal()
    likeliest = torch.randint(sizes.actions, (*states, 1), generator=random)
    peaked.scatter_add_(-1, likeliest, uniform(*LEADS, *states, 1))
    yield _sampled("peaked", peaked, values, sizes.group, random)

    logits = START_SCALE * normal()
    for step in range(max(steps, default=-1) + 1):
        point = _sampled(f"run, {step} updates", logits, values, sizes.group, random)
        logits = logits + LEARNING_RATE * _gradient(point)
        if step in steps:
            yield point
            yield point._replace(name=f"{point.name}, off-policy", logits=logits)


def _sampled(
    name: str, logits: Tensor, values: Tensor, group: int, random: torch.Generator
) -> Point:
    prompts, length, actions = logits.shape
    flat = logits.softmax(-1).view(-1, actions)
    drawn = torch.multinomial(flat, group, replacement=True, generator=random)
    tokens = drawn.view(prompts, length, group).transpose(1, 2).contiguous()
    chance = values[:, None].expand(-1, group, -1, -1).gather(-1, tokens[..., None]).mean((2, 3))
    right = torch.rand(prompts, group, generator=random, dtype=torch.float64) < chance
    everywhere = torch.ones(prompts * group, length, dtype=torch.bool)
    prompt = torch.arange(prompts).repeat_interleave(group)
    advantages = group_zscore(right.double().flatten(), prompt, everywhere).view(tokens.shape)
    mixed = right.any(1) & ~right.all(1)
    mask = mixed[:, None, None].expand(tokens.shape).contiguous()
    return Point(name, logits, logits, tokens, advantages, mask)


def _gradient(point: Point) -> Tensor:
    """Of the mean over the group of A·ln π, with respect to the logits [P, T, A]."""
    chosen = torch.zeros_like(point.logits)
    chosen.scatter_add_(-1, point.tokens.transpose(1, 2), point.advantages.transpose(1, 2))
    total = point.advantages.sum(1)[..., None]
    return (chosen - point.logits.softmax(-1) * total) / point.tokens.shape[1]
