"""Bounds that hold for any row, to the last bit, as properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor

from entropy_ext import TokenStats, reference, token_stats
from tests import draws
from tests.truth import OUTPUTS, gradient

INF = math.inf

pytestmark = [pytest.mark.isa, pytest.mark.usefixtures("one_thread")]


def check_bounds(logits: Tensor, tokens: Tensor, temperature: float) -> TokenStats:
    """logits [N, V] without NaN or +inf, each row with a finite entry."""
    stats = token_stats(logits, tokens, temperature=temperature, extras=True)
    dtype = stats.entropy.dtype
    live = (logits > -INF).sum(-1).double().cpu()
    for name in OUTPUTS:
        assert not getattr(stats, name).isnan().any(), name
    assert (stats.logp <= 0).all()
    assert (stats.entropy >= 0).all()
    assert (stats.entropy.cpu() <= live.log().to(dtype)).all()
    assert stats.collision is not None
    assert (stats.collision.cpu() >= (1 / live).to(dtype)).all()
    assert (stats.collision <= 1).all()
    assert stats.collision_logp is not None
    assert (stats.collision_logp <= 0).all()
    assert stats.varentropy is not None
    assert (stats.varentropy >= 0).all()
    assert stats.max_logp is not None
    assert (stats.max_logp <= 0).all()
    return stats


@given(
    st.lists(
        st.one_of(
            st.floats(-200, 200, width=32),
            st.sampled_from([-INF, torch.finfo(torch.float32).min, 0.0]),
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([1e-3, *draws.TEMPERATURES, 1e3]),
    st.integers(0, 39),
)
@example([0.0, 0.0, 0.0], 0.6, 1)
@example([-INF, 1e-45], 1.0, 0)
def test_bounds_and_values_of_short_rows(
    device: torch.device, row: list[float], temperature: float, token: int
) -> None:
    """Any row at all: catches a positive logp, an entropy above ln n, a lost −inf."""
    assume(max(row) > -INF)
    logits = torch.tensor([row], device=device)
    tokens = torch.tensor([token % len(row)], device=device)
    stats = check_bounds(logits, tokens, temperature)
    truth = reference.token_stats(logits.double(), tokens, temperature=temperature)
    for name in ("logp", "entropy"):
        # In float32, where finfo.min/τ may be −inf.
        expected = getattr(truth, name).float()
        torch.testing.assert_close(getattr(stats, name), expected, rtol=2e-6, atol=2e-6, msg=name)


@given(
    vocab=st.integers(1, 6000),
    step=st.sampled_from([0.0, 2.0**-24, 2.0**-22, 1e-5, 1e-3]),
    level=st.sampled_from([0.0, 1.0, 17.3, 1e4]),
    dead=st.sampled_from([0.0, 0.3, 0.9]),
    temperature=st.sampled_from(draws.TEMPERATURES),
    dtype=st.sampled_from(draws.DTYPES),
    seed=st.integers(0, 1000),
)
def test_bounds_of_near_uniform_rows(
    device: torch.device,
    vocab: int,
    step: float,
    level: float,
    dead: float,
    temperature: float,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Where ln n and 1/n are attained: catches a bound broken by one rounding."""
    random = torch.Generator().manual_seed(seed)
    z = level + step * torch.randn(8, vocab, generator=random, dtype=torch.float64)
    excluded = torch.rand(8, vocab, generator=random) < dead
    excluded[:, seed % vocab] = False
    logits = z.masked_fill(excluded, -INF).to(dtype).to(device)
    tokens = torch.randint(vocab, (8,), generator=random).to(device)
    check_bounds(logits, tokens, temperature)


@pytest.mark.parametrize("vocab", [50257, 128256, 151936, 152064])
def test_bounds_of_uniform_rows_at_real_vocabularies(vocab: int, device: torch.device) -> None:
    """Equal logits: the entropy is fl(ln n) or below, and within rounding of it."""
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.full((2, vocab), 3.0, dtype=dtype, device=device)
        logits[1, ::3] = -INF
        tokens = torch.tensor([0, 1], device=device)
        stats = check_bounds(logits, tokens, 0.6)
        live = (logits > -INF).sum(-1).double()
        torch.testing.assert_close(stats.entropy.double(), live.log(), rtol=2.5e-7, atol=0)
        torch.testing.assert_close(stats.collision.double(), 1 / live, rtol=1e-6, atol=0)
        assert (stats.varentropy < 1e-12).all()


@given(
    vocab=st.integers(2, 3000),
    scale=st.sampled_from([1e-3, 1.0, 20.0, 400.0]),
    dead=st.sampled_from([0.0, 0.5, 0.95]),
    seed=st.integers(0, 1000),
)
def test_the_order_of_the_vocabulary_does_not_matter(
    device: torch.device, vocab: int, scale: float, dead: float, seed: int
) -> None:
    """Permuted columns agree within rounding: catches a column counted twice or skipped."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocab, generator=random) * scale
    excluded = torch.rand(3, vocab, generator=random) < dead
    excluded[:, 0] = False
    logits = logits.masked_fill(excluded, -INF)
    order = torch.randperm(vocab, generator=random)
    token = int(torch.randint(vocab, (1,), generator=random))
    place = int((order == token).nonzero())
    logits, permuted = logits.to(device), logits[:, order].to(device)
    one = torch.ones(3, dtype=torch.int64, device=device)
    here = token_stats(logits, token * one, extras=True)
    there = token_stats(permuted, place * one, extras=True)
    for name in OUTPUTS:
        torch.testing.assert_close(
            getattr(here, name), getattr(there, name), rtol=3e-6, atol=3e-6, msg=name
        )
    torch.testing.assert_close(
        gradient(logits, token * one)[:, order.to(device)],
        gradient(permuted, place * one),
        rtol=1e-5,
        atol=3e-6,
    )
