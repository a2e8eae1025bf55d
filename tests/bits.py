"""Whether two states, such as those of checkpoints, are the same."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["same_bits"]


def same_bits(a: Any, b: Any) -> bool:
    """Equal through nested containers, and tensors to the bit: NaN equals NaN, 0 is not −0."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return same and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return bool(a == b)
