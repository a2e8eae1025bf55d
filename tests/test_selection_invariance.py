"""What must not matter to a selection: order, layout, dtype, what the padding holds."""

from __future__ import annotations

import itertools
import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests import draws
from tests.selection import count_of, each_api, each_dtype

pytestmark = pytest.mark.isa


def selections(api: ModuleType, values: Tensor, mask: Tensor, ids: Tensor) -> list[Tensor]:
    """Every selector, where there is something to choose."""
    return [
        api.clip_cov(values, mask, fraction=0.1, bounds=(0.5, 5.0), seed=7, token_ids=ids),
        api.kl_cov(values, mask, fraction=0.1, token_ids=ids),
        api.top_entropy(values, mask, token_ids=ids),
        api.top_entropy(values, mask, rule="quantile", token_ids=ids),
    ]


def rounded_values(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Values with many ties, NaN off the mask; the mask; scattered ids of both signs."""
    random = draws.generator("rounded", shape)
    values = torch.randint(-8, 50, shape, generator=random) / 8
    mask = torch.rand(shape, generator=random) < 0.75
    count = math.prod(shape)
    ids = torch.randperm(3 * count, generator=random)[:count].view(shape) - count
    values = torch.where(mask, values, torch.nan)
    return values.to(device, dtype), mask.to(device), ids.to(device)


@each_api
@each_dtype
@pytest.mark.parametrize("size", [1, 300, 5000, 70_000])
def test_order_of_the_tokens(
    size: int, api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """The same tokens in any order: catches ties broken by position."""
    values, mask, ids = rounded_values((size,), dtype, device)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(size)).to(device)
    whole = selections(api, values, mask, ids)
    shuffled = selections(api, values[order], mask[order], ids[order])
    for a, b in zip(whole, shuffled, strict=True):
        assert torch.equal(a[order], b)
        assert not (a & ~mask).any()
    valid = int(mask.sum())
    assert whole[1].sum() == count_of("floor", 0.1, valid)
    assert whole[2].sum() == count_of("ceil", 0.2, valid)


@each_api
def test_without_ids_ties_go_to_the_first(api: ModuleType, device: torch.device) -> None:
    """Positions stand for ids, masked ones included; of a [2, 3] batch, row by row."""
    values = torch.tensor([[1.0, 2.0, 2.0], [2.0, 1.0, 2.0]], device=device)
    mask = torch.tensor([[True, False, True], [True, True, True]], device=device)
    got = api.kl_cov(values, mask, fraction=0.4)
    assert got.tolist() == [[False, False, True], [True, False, False]]
    positions = torch.arange(6, device=device).view(2, 3)
    for seed in range(5):
        assert torch.equal(
            api.clip_cov(values, mask, fraction=0.4, bounds=(0, 3), seed=seed),
            api.clip_cov(values, mask, fraction=0.4, bounds=(0, 3), seed=seed, token_ids=positions),
        )


@each_api
def test_fractions_nest(api: ModuleType, device: torch.device) -> None:
    """A larger fraction keeps what a smaller one chose, random choice included."""
    values, mask, ids = rounded_values((3000,), torch.float32, device)
    for select in (
        lambda f: api.kl_cov(values, mask, fraction=f, token_ids=ids),
        lambda f: api.clip_cov(values, mask, fraction=f, bounds=(0, 9), seed=1, token_ids=ids),
    ):
        chosen = [select(f) for f in (0.0, 0.01, 0.2, 0.6, 1.0)]
        for small, large in itertools.pairwise(chosen):
            assert not (small & ~large).any()
            assert small.sum() < large.sum()


@each_api
@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, 5)])
def test_nothing_to_choose_from(
    shape: tuple[int, ...], api: ModuleType, device: torch.device
) -> None:
    """No tokens, or all masked: an empty selection of the right shape, at any fraction."""
    values = torch.full(shape, math.nan, device=device)
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    for fraction in (0.0, 0.5, 1.0):
        for got in (
            api.clip_cov(values, mask, fraction=fraction, seed=0),
            api.kl_cov(values, mask, fraction=fraction),
            api.top_entropy(values, mask, fraction=fraction),
            api.top_entropy(values, mask, fraction=fraction, rule="quantile"),
        ):
            assert got.shape == shape
            assert got.dtype == torch.bool
            assert not got.any()


@each_api
def test_padding_may_hold_anything(api: ModuleType, device: torch.device) -> None:
    """NaN, infinities and repeated ids off the mask: catches keys that are formed there."""
    values, mask, ids = rounded_values((500,), torch.float32, device)
    clean = selections(api, values.nan_to_num(0.0), mask, ids)
    for poison in (math.nan, math.inf, -math.inf, 2.0):
        poisoned = torch.where(mask, values, poison)
        for a, b in zip(clean, selections(api, poisoned, mask, ids), strict=True):
            assert torch.equal(a, b)


@each_api
def test_no_mask_is_a_mask_of_ones(api: ModuleType, device: torch.device) -> None:
    values, _, ids = rounded_values((200,), torch.float32, device)
    values = values.nan_to_num(1.0)
    ones = torch.ones_like(values, dtype=torch.bool)
    for a, b in zip(
        selections(api, values, None, ids), selections(api, values, ones, ids), strict=True
    ):
        assert torch.equal(a, b)


@each_api
def test_layouts(api: ModuleType, device: torch.device) -> None:
    """Transposed, stepped, expanded, 0-dimensional: catches flat reads and row-major ids."""
    values, mask, ids = rounded_values((12, 9), torch.float32, device)
    expected = selections(api, values, mask, ids)
    for a, b in zip(expected, selections(api, values.t(), mask.t(), ids.t()), strict=True):
        assert torch.equal(a, b.t())
    wide = torch.stack([values, values - 1], -1)
    for a, b in zip(expected, selections(api, wide[..., 0], mask, ids), strict=True):
        assert torch.equal(a, b)
    row = values[:1].nan_to_num(2.0).expand(12, 9)
    every = mask[:, :1].expand(12, 9)
    dense = selections(api, row.contiguous(), every.contiguous(), ids)
    for a, b in zip(dense, selections(api, row, every, ids), strict=True):
        assert torch.equal(a, b)
    one = torch.tensor(2.0, device=device)
    for got in selections(api, one, None, torch.tensor(5, device=device)):
        assert got.shape == ()
        assert got.item()


@each_api
def test_float32_and_float64_agree(api: ModuleType, device: torch.device) -> None:
    """The same values in either dtype: catches keys of the wrong width."""
    values, mask, ids = rounded_values((900,), torch.float32, device)
    for a, b in zip(
        selections(api, values, mask, ids), selections(api, values.double(), mask, ids), strict=True
    ):
        assert torch.equal(a, b)


@each_api
def test_no_gradient_flows(api: ModuleType, device: torch.device) -> None:
    values = torch.arange(5.0, device=device, requires_grad=True)
    for got in selections(api, values, None, torch.arange(5, device=device)):
        assert not got.requires_grad
        assert got.any()
