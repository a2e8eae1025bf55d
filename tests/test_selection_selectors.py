"""Clip-Cov, KL-Cov and high-entropy tokens: which are chosen, to the last tie."""

from __future__ import annotations

import math
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.selection import (
    at_or_above_quantile,
    count_of,
    each_api,
    each_dtype,
    greatest,
    least_keys,
    tensor,
)

pytestmark = pytest.mark.isa
FRACTIONS = st.sampled_from([0.0, 2e-4, 0.05, 0.2, 0.3, 0.5, 0.7, 0.999, 1.0]) | st.floats(0, 1)
INT64 = st.integers(-(2**63), 2**63 - 1)


class Tokens(NamedTuple):
    """A batch small enough to be sorted in Python."""

    values: list[float]
    mask: list[bool]
    clipped: list[bool]
    ids: list[int]


@st.composite
def tokens(draw: st.DrawFn, *, ties: bool = True) -> Tokens:
    """Up to 40 tokens with any ids; half of the batches have values of a few kinds."""
    size = draw(st.integers(0, 40))
    few = st.sampled_from([-1.5, -0.0, 0.0, 1.0, math.nextafter(1.0, 2.0), 3.0, 5.0, 7.0])
    wide = st.floats(allow_nan=False, width=32)
    value = draw(st.sampled_from([few, wide])) if ties else wide
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    return Tokens(
        draw(st.lists(value, min_size=size, max_size=size)),
        draw(flags),
        draw(flags),
        draw(st.lists(INT64, min_size=size, max_size=size, unique=True)),
    )


def tensors(batch: Tokens, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        tensor(batch.values, device),
        tensor(batch.mask, device, torch.bool),
        tensor(batch.clipped, device, torch.bool),
        tensor(batch.ids, device, torch.int64),
    )


@each_api
@given(batch=tokens(), fraction=FRACTIONS)
def test_kl_cov_takes_the_greatest(
    batch: Tokens, fraction: float, api: ModuleType, device: torch.device
) -> None:
    """Against sorting by (−value, id): catches −0 < 0, ids compared as unsigned, infinities."""
    values, mask, _, ids = tensors(batch, device)
    got = api.kl_cov(values, mask, fraction=fraction, token_ids=ids)
    count = count_of("floor", fraction, sum(batch.mask))
    assert got.tolist() == greatest(batch.values, batch.mask, batch.ids, count)


@each_api
@given(batch=tokens(), fraction=FRACTIONS)
def test_top_entropy_takes_the_greatest(
    batch: Tokens, fraction: float, api: ModuleType, device: torch.device
) -> None:
    """The exact rule against sorting: catches the rounding of the count."""
    values, mask, _, ids = tensors(batch, device)
    got = api.top_entropy(values, mask, fraction=fraction, token_ids=ids)
    count = count_of("ceil", fraction, sum(batch.mask))
    assert got.tolist() == greatest(batch.values, batch.mask, batch.ids, count)


@each_api
@given(batch=tokens(), fraction=FRACTIONS)
def test_top_entropy_by_quantile(
    batch: Tokens, fraction: float, api: ModuleType, device: torch.device
) -> None:
    """Catches ties that are broken: by this rule all of them are in."""
    values, mask, _, ids = tensors(batch, device)
    got = api.top_entropy(values, mask, fraction=fraction, rule="quantile", token_ids=ids)
    assert got.tolist() == at_or_above_quantile(batch.values, batch.mask, fraction)


@each_api
@given(
    batch=tokens(),
    fraction=FRACTIONS,
    seed=INT64,
    bounds=st.sampled_from([(1.0, 5.0), (-math.inf, math.inf), (-1.5, 7.0), (0.0, math.inf)]),
)
def test_clip_cov_takes_the_least_keys(
    batch: Tokens,
    fraction: float,
    seed: int,
    bounds: tuple[float, float],
    api: ModuleType,
    device: torch.device,
) -> None:
    """Against hashing in Python: catches bounds that include, N of candidates, signed keys."""
    values, mask, clipped, ids = tensors(batch, device)
    got = api.clip_cov(
        values, mask, fraction=fraction, bounds=bounds, clipped=clipped, seed=seed, token_ids=ids
    )
    low, high = bounds
    candidates = [
        m and not c and (v > low or low == -math.inf) and (v < high or high == math.inf)
        for v, m, c in zip(batch.values, batch.mask, batch.clipped, strict=True)
    ]
    count = count_of("floor", fraction, sum(batch.mask))
    assert got.tolist() == least_keys(candidates, batch.ids, seed, count)


@pytest.mark.parametrize("count", [2, 5, 9, 33, 1025, 4001])
@pytest.mark.parametrize("fraction", [0.125, 0.25, 0.5, 0.75])
@each_api
def test_quantile_rule_against_torch(
    fraction: float, count: int, api: ModuleType, device: torch.device
) -> None:
    """TRL's own formula: catches a rank that is off by one."""
    random = torch.Generator().manual_seed(count)
    entropy = torch.rand(count, generator=random, dtype=torch.float64)
    threshold = torch.quantile(entropy, 1.0 - fraction)
    got = api.top_entropy(entropy.to(device), None, fraction=fraction, rule="quantile")
    assert torch.equal(got.cpu(), entropy >= threshold)


@each_api
@each_dtype
def test_bounds_are_strict(api: ModuleType, dtype: torch.dtype, device: torch.device) -> None:
    """A covariance of exactly 1 or 5 is out, its neighbours are in."""
    eps = torch.finfo(dtype).eps
    values = [1.0, 1.0 + eps, 5.0, 5.0 - 4 * eps, 3.0, -3.0, math.inf, -math.inf]
    got = api.clip_cov(tensor(values, device, dtype), None, fraction=1.0, seed=0)
    assert got.tolist() == [False, True, False, True, True, False, False, False]


@each_api
def test_clipped_tokens_are_counted_but_not_chosen(api: ModuleType, device: torch.device) -> None:
    """N counts them, the candidates do without: catches n from the candidates."""
    cov = torch.full((100,), 2.0, device=device)
    clipped = torch.arange(100, device=device) < 90
    got = api.clip_cov(cov, None, fraction=0.08, clipped=clipped, seed=3)
    assert got.sum() == 8
    assert not (got & clipped).any()
    got = api.clip_cov(cov, None, fraction=0.5, clipped=clipped, seed=3)
    assert torch.equal(got, ~clipped)
