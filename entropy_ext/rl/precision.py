"""The precision that rewards and advantages are worked out in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32"]


def at_least_float32(values: Tensor) -> Tensor:
    """`values` as they are, or in float32 where they are of half precision.

    bfloat16 has 3 significant digits: a mean or a difference taken in it loses what sets the
    responses of a group apart, and counts above 256 are no longer exact.
    """
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
