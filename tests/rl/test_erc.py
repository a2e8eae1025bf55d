from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.losses import entropy_ratio_mask


def test_cases():
    """.94/1 leaves, 1.04/1 stays, 0/0 counts as 1, which is no longer below an upper bound of 1."""
    new = torch.tensor([[0.94, 1.04, 0.0, 1.06, 0.5, 2.0]], dtype=torch.float64)
    old = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    mask = torch.ones(1, 6, dtype=torch.bool)
    kept = entropy_ratio_mask(new, old, mask)
    assert kept.tolist() == [[False, True, True, False, False, True]]
    wide = entropy_ratio_mask(new, old, mask, clip_low=0.2, clip_high=0.2)
    assert wide.tolist() == [[True, True, True, True, False, True]]
    closed = entropy_ratio_mask(new, old, mask, clip_low=0.4, clip_high=0.0)
    assert closed.tolist() == [[True, False, False, False, False, False]]


def test_edges():
    nan = math.nan
    new = torch.tensor([[nan, 1.0, 1.0, nan]])
    old = torch.tensor([[1.0, nan, 1.0, nan]])
    mask = torch.tensor([[True, True, True, False]])
    assert entropy_ratio_mask(new, old, mask).tolist() == [[False, False, True, False]]
    with FakeTensorMode():
        x = torch.empty(2, 3)
        entropy_ratio_mask(x, x, torch.empty(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="clip_low: expected a number >= 0 and <= 1"):
        entropy_ratio_mask(new, old, mask, clip_low=2.0)
