"""What the tests of token selection share: both implementations, oracles in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import entropy_ext
from entropy_ext import reference
from tests import draws

each_api = pytest.mark.parametrize("api", [entropy_ext, reference], ids=["kernels", "reference"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

WORD = (1 << 64) - 1


class Batch(NamedTuple):
    """Tokens of an optimizer step, [B, T]."""

    logp: Tensor
    old_logp: Tensor
    entropy: Tensor
    collision: Tensor
    collision_logp: Tensor
    advantages: Tensor
    mask: Tensor
    token_ids: Tensor

    def taken(self, index: Tensor) -> Batch:
        """The tokens at flat positions, flat."""
        return Batch(*(x.flatten()[index] for x in self))


def draw_batch(
    name: object, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Batch:
    """Statistics of real distributions, some peaked; a mask of three quarters; scattered ids.

    Off the mask everything is NaN.
    """
    random = draws.generator("selection", name)
    scale = torch.empty(*shape, 1, dtype=torch.float64).uniform_(0.1, 6.0, generator=random)
    logits = torch.randn(*shape, 40, generator=random, dtype=torch.float64) * scale
    moved = logits + 0.2 * torch.randn(logits.shape, generator=random, dtype=torch.float64)
    flat = logits.softmax(-1).view(-1, 40)
    tokens = torch.multinomial(flat, 1, generator=random).view(*shape)
    stats = reference.token_stats(logits, tokens, extras=True)
    old = reference.token_stats(moved, tokens)
    advantages = torch.randn(shape, generator=random, dtype=torch.float64)
    mask = torch.rand(shape, generator=random) < 0.75
    count = math.prod(shape)
    ids = torch.randperm(4 * count + 1, generator=random)[:count].view(*shape) - count
    assert stats.collision is not None
    assert stats.collision_logp is not None
    values = (
        stats.logp,
        old.logp,
        stats.entropy,
        stats.collision,
        stats.collision_logp,
        advantages,
    )
    padded = (torch.where(mask, x, torch.nan).to(device, dtype) for x in values)
    return Batch(*padded, mask.to(device), ids.to(device))


def exact_moments(x: Tensor, y: Tensor) -> tuple[Fraction, ...]:
    """Means, variances and covariance of the values, without any rounding."""
    xs, ys = ([Fraction(v) for v in t.double().tolist()] for t in (x, y))
    n = len(xs)
    mean_x, mean_y = sum(xs) / n, sum(ys) / n
    var_x = sum((v - mean_x) ** 2 for v in xs) / n
    var_y = sum((v - mean_y) ** 2 for v in ys) / n
    cov = sum((v - mean_x) * (w - mean_y) for v, w in zip(xs, ys, strict=True)) / n
    return mean_x, mean_y, var_x, var_y, cov


def count_of(rule: str, fraction: float, valid: int) -> int:
    """How many of the valid tokens the papers' code takes, for enough candidates."""
    if valid == 0:
        return 0
    if rule == "floor":
        return max(int(fraction * valid), 1)
    return max(int(valid * fraction + 0.9999), 1)


def greatest(
    values: Sequence[float], mask: Sequence[bool], ids: Sequence[int], count: int
) -> list[bool]:
    """The first `count` valid tokens by value, descending, then id, ascending."""
    order = sorted((i for i, m in enumerate(mask) if m), key=lambda i: (-values[i], ids[i]))
    return _marked(order[:count], len(values))


def at_or_above_quantile(
    values: Sequence[float], mask: Sequence[bool], fraction: float
) -> list[bool]:
    """TRL's rule: valid tokens of at least the interpolated (1 − fraction)-quantile.

    The quantile lies at h = (1 − fraction)(N − 1) among the ascending values, so that what is at or
    above it is what is at or above the value number ⌈h⌉, whatever lies between.
    """
    ascending = sorted(v for v, m in zip(values, mask, strict=True) if m)
    if not ascending:
        return [False] * len(values)
    threshold = ascending[math.ceil((1.0 - fraction) * (len(ascending) - 1))]
    return [m and v >= threshold for v, m in zip(values, mask, strict=True)]


def least_keys(candidates: Sequence[bool], ids: Sequence[int], seed: int, count: int) -> list[bool]:
    """The `count` candidates of least hash, in integers of Python."""
    order = sorted(
        (i for i, c in enumerate(candidates) if c), key=lambda i: token_key(seed, ids[i])
    )
    return _marked(order[:count], len(ids))


def token_key(seed: int, token_id: int) -> int:
    """Two rounds of Stafford's mixer number 13, with two words of the seed."""
    first = _mix(seed + 0x9E3779B97F4A7C15)
    second = _mix(first ^ 0xD1B54A32D192ED03)
    return _mix(_mix(token_id + first) ^ second)


def _mix(x: int) -> int:
    x &= WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def _marked(positions: Sequence[int], size: int) -> list[bool]:
    chosen = set(positions)
    return [i in chosen for i in range(size)]


def tensor(values: Any, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def standard_score(statistic: float, degrees: float) -> float:
    """Of a chi-square statistic, by Wilson and Hilferty's cube root: good to far in both tails."""
    spread = 2.0 / (9.0 * degrees)
    return ((statistic / degrees) ** (1.0 / 3.0) - (1.0 - spread)) / math.sqrt(spread)
