from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl import soft_overlong


def test_paper_figures():
    """Catches an off-by-one at either end of the ramp and a missing floor."""
    lengths = torch.tensor([1, 16384, 16385, 18432, 20480, 20481, 30000])
    got = soft_overlong(lengths, 20480, 4096)
    expected = torch.tensor([0.0, 0.0, -1 / 4096, -0.5, -1.0, -1.0, -1.0])
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_verl_variant_has_no_floor():
    got = soft_overlong(torch.tensor([20481]), 20480, 4096, floor=-math.inf)
    assert got.item() == pytest.approx(-1.000244, abs=1e-6)


def test_small_figures():
    got = soft_overlong(torch.tensor([79, 80, 90, 100]), 100, 20)
    assert got.tolist() == pytest.approx([0.0, 0.0, -0.5, -1.0])


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_buffer_out_of_bounds_is_named(buffer):
    with pytest.raises(ValueError, match=f"buffer: expected a number > 0 and <= 100, got {buffer}"):
        soft_overlong(torch.tensor([1]), 100, buffer)
