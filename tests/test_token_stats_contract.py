"""The table of docs/numerics.md: −inf, NaN and masks, forward and backward."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from entropy_ext import token_stats
from tests import draws
from tests.truth import OUTPUTS, gradient, run, stats_dtype

INF = math.inf

pytestmark = [pytest.mark.isa, pytest.mark.usefixtures("one_thread")]
each_dtype = pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
each_vocabulary = pytest.mark.parametrize("vocab", [5, 33, 2053, 50257])


@each_dtype
@each_vocabulary
def test_minus_infinity_is_a_token_that_is_not_there(
    vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """A row padded with −inf equals the row without: catches 0·(−inf), and gradients that leak."""
    short = draws.draw_logits("randn", 3, vocab, dtype).to(device)
    tokens = draws.draw_tokens(short.cpu()).to(device)
    # The padding comes first, over more than a tile, so that an accumulator meets nothing else.
    pad = vocab + 70
    padded = torch.cat([torch.full((3, pad), -INF, dtype=dtype, device=device), short], dim=1)
    got = token_stats(padded, tokens + pad, temperature=0.6, extras=True)
    expected = token_stats(short, tokens, temperature=0.6, extras=True)
    eps = torch.finfo(stats_dtype(dtype)).eps
    for name in OUTPUTS:
        torch.testing.assert_close(
            getattr(got, name), getattr(expected, name), rtol=16 * eps, atol=16 * eps, msg=name
        )
    got_gradient = gradient(padded, tokens + pad, temperature=0.6)
    assert (got_gradient[:, :pad] == 0).all()
    stored = max(16 * eps, torch.finfo(dtype).eps)
    torch.testing.assert_close(
        got_gradient[:, pad:],
        gradient(short, tokens, temperature=0.6),
        rtol=stored,
        atol=16 * eps,
    )


@each_dtype
@pytest.mark.parametrize("place", ["first", "last", "all but one", "every other"])
def test_minus_infinity_entries_receive_exactly_zero(
    place: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Whatever the upstream gradients: catches p·ln p = 0·(−inf) in the backward pass."""
    logits = draws.draw_logits("randn", 3, 2053, dtype).to(device)
    columns = torch.arange(2053, device=device)
    excluded = {
        "first": columns < 1500,
        "last": columns >= 500,
        "all but one": columns != 1027,
        "every other": columns % 2 == 0,
    }[place]
    logits[:, excluded] = -INF
    tokens = logits.argmax(-1)
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (-2.0, 3.0, 0.5)):
        result = gradient(logits, tokens, temperature=0.6, weights=weights)
        assert (result[:, excluded] == 0).all()
        assert result.isfinite().all()


@each_dtype
@each_vocabulary
def test_a_token_of_minus_infinity(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """logp is −inf, the rest as if drawn elsewhere; its entry 0, the others −g·p: catches NaN."""
    logits = draws.draw_logits("randn", 2, vocab, dtype).to(device)
    logits[:, 3] = -INF
    token = torch.full((2,), 3, device=device)
    got = token_stats(logits, token, temperature=0.6, extras=True)
    elsewhere = token_stats(logits, token - 1, temperature=0.6, extras=True)
    assert got.logp.tolist() == [-INF, -INF]
    for name in OUTPUTS[1:]:
        assert torch.equal(getattr(got, name), getattr(elsewhere, name)), name

    result = gradient(logits, token, temperature=0.6, weights=(1.5, 0.0, 0.0))
    p = (logits.double() / 0.6).softmax(-1)
    eps, stored = torch.finfo(stats_dtype(dtype)).eps, torch.finfo(dtype)
    assert (result[:, 3] == 0).all()
    torch.testing.assert_close(
        result.double(),
        -1.5 * p / 0.6,
        rtol=stored.eps + 32 * eps,
        atol=stored.smallest_normal * stored.eps,
    )
    # With the other outputs in the loss the gradient is theirs plus that of logp.
    both = gradient(logits, token, temperature=0.6, weights=(1.5, 0.5, 2.0))
    rest = gradient(logits, token, temperature=0.6, weights=(0.0, 0.5, 2.0))
    torch.testing.assert_close(
        both.double(), result.double() + rest.double(), rtol=0, atol=4 * stored.eps
    )


@each_dtype
@each_vocabulary
def test_a_row_of_minus_infinity_is_nan(
    vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Softmax of nothing has no value: catches 0 or −inf passing for one, and its neighbours."""
    logits = draws.draw_logits("randn", 3, vocab, dtype).to(device)
    logits[1] = -INF
    check_only_row_one_is_nan(logits)


@each_dtype
@each_vocabulary
@pytest.mark.parametrize("poison", [math.nan, INF])
@pytest.mark.parametrize("column", [0, 4, -1])
def test_nan_and_infinity_poison_their_row_only(
    column: int, poison: float, vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Catches a maximum that skips NaN, a clamp that hides it, and a tile shared by two rows."""
    logits = draws.draw_logits("randn", 3, vocab, dtype).to(device)
    logits[1, column] = poison
    check_only_row_one_is_nan(logits)


@each_dtype
def test_nan_among_minus_infinity(dtype: torch.dtype, device: torch.device) -> None:
    """Catches NaN lost where no finite maximum was ever found."""
    logits = draws.draw_logits("randn", 3, 2053, dtype).to(device)
    logits[1] = -INF
    logits[1, 700] = math.nan
    check_only_row_one_is_nan(logits)


@each_dtype
def test_infinities_of_both_signs(dtype: torch.dtype, device: torch.device) -> None:
    """Catches +inf − (+inf) avoided for the entry itself and the row called finite."""
    logits = draws.draw_logits("masked", 3, 2053, dtype).to(device)
    logits[1, 2000] = INF
    check_only_row_one_is_nan(logits)


def check_only_row_one_is_nan(logits: Tensor) -> None:
    """logits [3, V]: row 1 NaN in every output and gradient, rows 0 and 2 as if it were not."""
    vocab = logits.shape[1]
    for token in (0, 4, vocab - 1):
        tokens = torch.full((3,), token, device=logits.device)
        stats = token_stats(logits, tokens, temperature=0.6, extras=True)
        alone = token_stats(logits[[0, 2]], tokens[[0, 2]], temperature=0.6, extras=True)
        for name in OUTPUTS:
            value = getattr(stats, name)
            assert value.isnan().tolist() == [False, True, False], name
            assert torch.equal(value[[0, 2]], getattr(alone, name)), name
        result = gradient(logits, tokens, temperature=0.6)
        assert result[1].isnan().all()
        assert torch.equal(
            result[[0, 2]], gradient(logits[[0, 2]], tokens[[0, 2]], temperature=0.6)
        )


@each_dtype
@each_vocabulary
@pytest.mark.parametrize("content", ["nan", "inf", "-inf", "finite"])
def test_masked_rows_give_zero_whatever_they_hold(
    content: str, vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Padding with NaN, a token of −100, τ = 0, a NaN upstream gradient: catches mask·x."""
    logits = draws.draw_logits("randn", 4, vocab, dtype).to(device)
    if content != "finite":
        logits[1:3] = float(content)
    mask = torch.tensor([True, False, False, True], device=device)
    tokens = torch.tensor([1, -100, vocab, 2], device=device)
    temperature = torch.tensor([0.6, 0.0, math.nan, 1.7], dtype=stats_dtype(dtype), device=device)
    leaf = logits.detach().requires_grad_()
    stats = token_stats(leaf, tokens, temperature=temperature, mask=mask, extras=True)
    kept = token_stats(logits[mask], tokens[mask], temperature=temperature[mask], extras=True)
    for name in OUTPUTS:
        assert getattr(stats, name)[1:3].tolist() == [0.0, 0.0], name
        assert torch.equal(getattr(stats, name)[mask], getattr(kept, name)), name
    upstream = torch.tensor([1.0, math.nan, INF, -1.0], device=device, dtype=stats.logp.dtype)
    torch.autograd.backward(stats[:3], (upstream,) * 3)
    assert leaf.grad is not None
    assert (leaf.grad[1:3] == 0).all()
    ones = (upstream[mask],) * 3
    expected = run(token_stats, logits[mask], tokens[mask], temperature[mask], [ones])
    assert torch.equal(leaf.grad[mask], expected.gradients[0])


def test_all_rows_masked(device: torch.device) -> None:
    """Catches a reduction over no rows that divides by their number."""
    logits = torch.full((3, 33), math.nan, device=device)
    mask = torch.zeros(3, dtype=torch.bool, device=device)
    tokens = torch.zeros(3, dtype=torch.int64, device=device)
    stats = token_stats(logits, tokens, mask=mask, extras=True)
    assert all((getattr(stats, name) == 0).all() for name in OUTPUTS)
    assert (gradient(logits, tokens, mask=mask) == 0).all()
