"""What a coefficient decides: how narrow the range is in which it has an effect, and its price."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["cost_of_half", "decades_of_rise"]


def decades_of_rise(coefficients: Sequence[float], entropies: Sequence[float]) -> float:
    """Decades of the coefficient over which the middle half of the rise happens.

    Args:
        coefficients: rising from 0.
        entropies: at the end under each. Quarters of the way from the first to the last are read
            off where they are first met, on straight lines over the logarithm of the coefficient.
    """
    ends = []
    for share in (0.25, 0.75):
        # The first interval starts at 0, of which there is no logarithm.
        k, part = _place(entropies, share)
        low, high = (math.log10(max(c, coefficients[1])) for c in coefficients[k : k + 2])
        ends.append(low + part * (high - low))
    return ends[1] - ends[0]


def cost_of_half(entropies: Sequence[float], rewards: Sequence[float]) -> float:
    """Reward where half of the rise of the entropies is had, less that at the first."""
    k, part = _place(entropies, 0.5)
    return rewards[k] + part * (rewards[k + 1] - rewards[k]) - rewards[0]


def _place(entropies: Sequence[float], share: float) -> tuple[int, float]:
    """Where entropy has risen by a share of its range: the interval of the grid, and how far in."""
    level = entropies[0] + share * (entropies[-1] - entropies[0])
    above = next(k for k, entropy in enumerate(entropies) if entropy >= level)
    return above - 1, (level - entropies[above - 1]) / (entropies[above] - entropies[above - 1])
