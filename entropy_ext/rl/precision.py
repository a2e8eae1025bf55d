"""The precision in which rewards and advantages are computed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32"]


def at_least_float32(values: Tensor) -> Tensor:
    """`values` unchanged, or converted to float32 if they are in half precision.

    bfloat16 has 3 significant digits: means and differences lose what distinguishes the responses
    of a group, and counts above 256 are not exact.
    """
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
