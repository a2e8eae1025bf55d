"""Random numbers from counters: what a seed draws depends on nothing but the seed and the place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["normals", "uniforms"]

# SplitMix64 (Steele, Lea, Flood 2014), its constants as signed 64-bit numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def uniforms(seeds: Tensor, *place: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers in (0, 1), never either end.

    Args:
        seeds: [N] int64.
        place: what the numbers are for, such as (stream, step); other places, other numbers.
        shape: of each seed's draw.

    Returns:
        [N, *shape] float64; a seed's rows do not depend on which other seeds there are.
    """
    key = _mixed(seeds + _GOLDEN)
    for number in place:
        key = _mixed(key ^ ((number + 1) * _FIRST % 2**63))
    counter = torch.arange(1, math.prod(shape) + 1)
    bits = _shifted(_mixed(key[:, None] + counter * _GOLDEN), 11)
    return ((bits.double() + 0.5) * 2.0**-53).reshape(len(seeds), *shape)


def normals(seeds: Tensor, *place: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, [N, *shape] float64."""
    drawn: Tensor = torch.special.ndtri(uniforms(seeds, *place, shape=shape))
    return drawn


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift to the right that fills with zeros; torch's own repeats the sign."""
    shifted: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return shifted
