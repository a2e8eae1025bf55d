"""Moments of log-probabilities and advantages, and each token's covariance."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from entropy_ext import CovarianceMoments, covariance
from tests.selection import draw_batch, each_api, each_dtype, exact_moments, tensor
from tests.truth import same_bits, ulp

pytestmark = pytest.mark.isa
PROPERTIES = ("mean_logp", "mean_advantages", "var_logp", "var_advantages", "covariance")


def moments_of(api: ModuleType, *parts: tuple[Tensor, Tensor, Tensor | None]) -> CovarianceMoments:
    moments: CovarianceMoments = api.CovarianceMoments()
    for part in parts:
        moments.update(*part)
    return moments


def bits(moments: CovarianceMoments) -> list[float]:
    """Everything a user may read of the moments, as numbers that compare bit for bit."""
    return [float(getattr(moments, name)).hex() for name in ("count", *PROPERTIES)]


@each_api
@each_dtype
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (9, 301), (2, 3, 4)])
def test_moments_against_exact_sums(
    shape: tuple[int, ...], api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """Catches n − 1, masked tokens that count, and sums in float32."""
    batch = draw_batch(shape, shape, dtype, device)
    mask = batch.mask.clone()
    mask.view(-1)[0] = True
    logp, advantages = (torch.where(mask, x.nan_to_num(0.5), x) for x in (batch.logp, batch[5]))
    moments = moments_of(api, (logp, advantages, mask))
    truth = exact_moments(logp[mask], advantages[mask])
    assert moments.count == mask.sum()
    for name, expected in zip(PROPERTIES, truth, strict=True):
        got = getattr(moments, name)
        assert got.shape == ()
        assert got.dtype == torch.float64
        assert got.device.type == device.type
        assert got.item() == pytest.approx(float(expected), rel=1e-13, abs=2e-13), name


@each_api
def test_moments_of_values_with_a_common_offset(api: ModuleType, device: torch.device) -> None:
    """Rewards around 100, say: catches Σx² − (Σx)²/n in float32, which loses these variances."""
    random = torch.Generator().manual_seed(3)
    x, y = (100.0 + 0.01 * torch.rand(2000, generator=random) for _ in range(2))
    moments = moments_of(api, (x.to(device), y.to(device), None))
    for name, expected in zip(PROPERTIES, exact_moments(x, y), strict=True):
        got = getattr(moments, name).item()
        assert got == pytest.approx(float(expected), rel=1e-12, abs=2e-11), name


def test_moments_of_values_far_from_zero(device: torch.device) -> None:
    """Catches the difference of two rounded products: at 10⁶ it keeps three digits of these."""
    random = torch.Generator().manual_seed(4)
    x, y = (1e6 + torch.rand(2000, generator=random, dtype=torch.float64) for _ in range(2))
    moments = CovarianceMoments()
    moments.update(x.to(device), y.to(device), None)
    for name, expected in zip(PROPERTIES, exact_moments(x, y), strict=True):
        assert getattr(moments, name).item() == pytest.approx(float(expected), rel=1e-12), name


@each_dtype
def test_no_split_and_no_order_changes_a_bit(dtype: torch.dtype, device: torch.device) -> None:
    """Micro-batches of any sizes, empty ones too: catches sums that round on the way."""
    batch = draw_batch("split", (5000,), dtype, device)
    whole = CovarianceMoments()
    whole.update(batch.logp, batch.advantages, batch.mask)
    random = torch.Generator().manual_seed(1)
    for sizes in ([5000], [1, 4999], [0, 2500, 0, 2500], [7] * 714 + [2]):
        order = torch.randperm(5000, generator=random).to(device)
        parts = CovarianceMoments()
        shuffled = (x.split(sizes) for x in (batch.logp[order], batch.advantages[order]))
        for logp, advantages, mask in zip(*shuffled, batch.mask[order].split(sizes), strict=True):
            parts.update(logp, advantages, mask)
        assert bits(parts) == bits(whole), sizes[:3]


@given(
    values=st.lists(
        st.tuples(st.floats(-40, 0, width=32), st.floats(-8, 8, width=32), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    data=st.data(),
)
def test_moments_of_anything_in_any_order(
    values: list[tuple[float, float, bool]], data: st.DataObject, device: torch.device
) -> None:
    """Values from 10⁻³⁸ to 40: catches a pair that is added up as two sums."""
    order = data.draw(st.permutations(values))
    cut = data.draw(st.integers(0, len(values)))
    results = []
    for parts in ([values], [order[:cut], order[cut:]]):
        moments = CovarianceMoments()
        for part in parts:
            columns = list(zip(*part, strict=True)) if part else [(), (), ()]
            logp, advantages = (tensor(list(c), device, torch.float32) for c in columns[:2])
            moments.update(logp, advantages, tensor(list(columns[2]), device, torch.bool))
        results.append([getattr(moments, name).item() for name in ("count", *PROPERTIES)])
    torch.testing.assert_close(
        torch.tensor(results[0], dtype=torch.float64),
        torch.tensor(results[1], dtype=torch.float64),
        rtol=1e-15,
        atol=1e-15,
        equal_nan=True,
    )


@each_api
@each_dtype
def test_covariance_against_exact_arithmetic(
    api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """To half an ulp and the rounding of the means: catches products in float32."""
    batch = draw_batch("exact", (12, 40), dtype, device)
    got = api.covariance(batch.logp, batch.advantages, batch.mask)
    mask = batch.mask
    assert (got[~mask] == 0).all()
    logp, advantages = (x[mask].double().cpu() for x in (batch.logp, batch.advantages))
    mean_logp, mean_advantages, *_ = (float(x) for x in exact_moments(logp, advantages))
    expected = (logp - mean_logp) * (advantages - mean_advantages)
    rounding = 2.0**-52 * (logp.abs() + abs(mean_logp)) * (advantages.abs() + abs(mean_advantages))
    error = (got[mask].double().cpu() - expected).abs()
    assert (error <= 0.501 * ulp(expected.abs(), dtype) + 4 * rounding).all()


@each_dtype
def test_order_of_the_tokens_changes_no_bit(dtype: torch.dtype, device: torch.device) -> None:
    """Catches a mean that depends on where a token stands."""
    batch = draw_batch("order", (3001,), dtype, device)
    whole = covariance(batch.logp, batch.advantages, batch.mask)
    order = torch.randperm(3001, generator=torch.Generator().manual_seed(0)).to(device)
    shuffled = batch.taken(order)
    got = covariance(shuffled.logp, shuffled.advantages, shuffled.mask)
    assert same_bits(got, whole[order])


@each_api
def test_moments_of_the_whole_step_serve_its_micro_batches(
    api: ModuleType, device: torch.device
) -> None:
    """Catches `moments` ignored: each micro-batch would take its own means."""
    batch = draw_batch("micro", (8, 50), torch.float32, device)
    columns = (x.split(3) for x in (batch.logp, batch.advantages, batch.mask))
    triples = list(zip(*columns, strict=True))
    moments = moments_of(api, *triples)
    parts = [api.covariance(*triple, moments=moments) for triple in triples]
    whole = api.covariance(batch.logp, batch.advantages, batch.mask)
    assert same_bits(torch.cat(parts), whole)
    alone = torch.cat([api.covariance(*triple) for triple in triples])
    assert not torch.allclose(alone, whole)


def test_covariances_average_to_the_covariance(device: torch.device) -> None:
    batch = draw_batch("average", (6, 50), torch.float64, device)
    cov = covariance(batch.logp, batch.advantages, batch.mask)
    moments = CovarianceMoments()
    moments.update(batch.logp, batch.advantages, batch.mask)
    assert cov[batch.mask].mean().item() == pytest.approx(moments.covariance.item(), rel=1e-12)


@each_api
@each_dtype
@pytest.mark.parametrize("advantage", [0.0, 0.1, -1.7, 1e-30])
def test_constant_advantages_give_zero(
    advantage: float, api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """Whatever the means are rounded to: catches tokens chosen from noise."""
    batch = draw_batch("constant", (1000,), dtype, device)
    constant = torch.full_like(batch.advantages, advantage)
    cov = api.covariance(batch.logp, constant, batch.mask)
    if dtype == torch.float32:
        assert (cov == 0).all()
    else:
        assert cov.abs().max() <= 1e-14 * abs(advantage)
    assert not api.clip_cov(cov, batch.mask, seed=0).any()
    assert api.kl_cov(cov, batch.mask).sum() == 1


@each_api
def test_a_single_token_has_no_covariance(api: ModuleType, device: torch.device) -> None:
    one = torch.tensor([False, True, False], device=device)
    logp, advantages = tensor([[math.nan, -3.7, 0.0], [1.0, 2.3, math.inf]], device)
    assert api.covariance(logp, advantages, one).tolist() == [0.0, 0.0, 0.0]


@each_api
@each_dtype
@pytest.mark.parametrize("shape", [(0,), (4, 0), (3, 5)])
def test_nothing_valid(
    shape: tuple[int, ...], api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """No tokens, or all masked: zeros, not NaN; the means have no value."""
    values = torch.full(shape, math.nan, dtype=dtype, device=device)
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    cov = api.covariance(values, values, mask)
    assert cov.shape == shape
    assert (cov == 0).all()
    moments = moments_of(api, (values, values, mask))
    assert moments.count == 0
    assert all(getattr(moments, name).isnan() for name in PROPERTIES)


@each_api
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_padding_may_hold_anything(poison: float, api: ModuleType, device: torch.device) -> None:
    """Catches a mask that is multiplied with."""
    batch = draw_batch("padding", (4, 60), torch.float32, device)
    poisoned = (torch.where(batch.mask, x, poison) for x in (batch.logp, batch.advantages))
    clean = (torch.where(batch.mask, x, 0.0) for x in (batch.logp, batch.advantages))
    assert same_bits(api.covariance(*poisoned, batch.mask), api.covariance(*clean, batch.mask))


@each_api
def test_no_mask_is_a_mask_of_ones(api: ModuleType, device: torch.device) -> None:
    logp, advantages = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).to(device)
    ones = torch.ones_like(logp, dtype=torch.bool)
    assert same_bits(api.covariance(logp, advantages, None), api.covariance(logp, advantages, ones))


@pytest.mark.parametrize("name", ["logp", "advantages"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_valid_token_that_is_not_finite(poison: float, name: str, device: torch.device) -> None:
    """On the CPU an error with the first such position; on CUDA NaN there, and nowhere else."""
    batch = draw_batch("bad", (6, 9), torch.float32, device)
    mask = batch.mask.clone()
    mask[2, 3] = mask[4, 1] = True
    mask[1, 8] = False
    values = {k: getattr(batch, k).nan_to_num(0.25) for k in ("logp", "advantages")}
    good = mask.clone()
    for position in ((1, 8), (2, 3), (4, 1)):
        values[name][position] = poison
        good[position] = False
    arguments = (values["logp"], values["advantages"])
    if device.type == "cpu":
        message = rf"^{name}\[2, 3\]: expected .*finite.*, got {poison}$"
        for call in (covariance, CovarianceMoments().update):
            with pytest.raises(ValueError, match=message):
                call(*arguments, mask)
    else:
        got = covariance(*arguments, mask)
        assert got[2, 3].isnan()
        assert got[4, 1].isnan()
        assert same_bits(got[good], covariance(*arguments, good)[good])
        assert (got[~mask] == 0).all()


@each_api
def test_layouts(api: ModuleType, device: torch.device) -> None:
    """Transposed, stepped, expanded, offset by one element, 0-dimensional: catches flat reads."""
    batch = draw_batch("layout", (6, 8), torch.float32, device)
    logp, advantages, mask = batch.logp, batch.advantages, batch.mask
    expected = api.covariance(logp, advantages, mask)
    assert same_bits(api.covariance(logp.t(), advantages.t(), mask.t()), expected.t())
    wide = torch.empty(6, 16, device=device)
    wide[:, 1::2] = logp
    assert same_bits(api.covariance(wide[:, 1::2], advantages, mask), expected)
    row = advantages[:, :1].nan_to_num(1.5).expand(6, 8)
    assert same_bits(api.covariance(logp, row, mask), api.covariance(logp, row.contiguous(), mask))
    assert api.covariance(logp[0, 0].nan_to_num(), row[0, 0], None).shape == ()


@each_api
def test_no_gradient_flows(api: ModuleType, device: torch.device) -> None:
    """Catches a covariance that is trained on: PRIME-RL's first code was."""
    logp = torch.zeros(4, device=device, requires_grad=True)
    assert not api.covariance(logp, torch.arange(4.0, device=device), None).requires_grad
    moments = moments_of(api, (logp, torch.arange(4.0, device=device), None))
    assert not any(getattr(moments, name).requires_grad for name in PROPERTIES)


def test_large_batches_in_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    """The CPU's parts of a large batch, whatever their number: bit for bit the same."""
    batch = draw_batch("threads", (40_000,), torch.float32)
    results = []
    for threads in (1, 2, 5):
        set_threads(threads)
        moments = CovarianceMoments()
        moments.update(batch.logp, batch.advantages, batch.mask)
        results.append((bits(moments), covariance(batch.logp, batch.advantages, batch.mask)))
    for sums, cov in results[1:]:
        assert sums == results[0][0]
        assert same_bits(cov, results[0][1])
