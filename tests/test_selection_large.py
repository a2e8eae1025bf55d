"""Selection among more tokens than float32 can count."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch

from tests.selection import each_api


@pytest.mark.slow
@each_api
def test_more_than_two_to_the_24_tokens(api: ModuleType, device: torch.device) -> None:
    """Catches counts and positions in float32, and torch.quantile's limit of elements."""
    size = 2**24 + 1003
    values = torch.arange(size, dtype=torch.float64, device=device)
    mask = torch.ones(size, dtype=torch.bool, device=device)
    mask[-3:] = False
    valid = size - 3
    for got, count in (
        (api.kl_cov(values, mask), int(2e-3 * valid)),
        (api.top_entropy(values, mask), int(0.2 * valid + 0.9999)),
        (
            api.top_entropy(values, mask, rule="quantile"),
            valid - math.ceil((1 - 0.2) * (valid - 1)),
        ),
    ):
        expected = torch.zeros_like(mask)
        expected[valid - count : valid] = True
        assert torch.equal(got, expected)
    got = api.clip_cov(values, mask, bounds=(-1.0, math.inf), seed=1)
    assert got.sum() == int(2e-4 * valid)
    assert not got[-3:].any()
    halves = got[: size // 2].sum().item(), got[size // 2 :].sum().item()
    assert abs(halves[0] - halves[1]) < 6 * sum(halves) ** 0.5
