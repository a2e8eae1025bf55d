from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropy_ext.rl.aggregate import Aggregation, aggregate, count

MODES = get_args(Aggregation)


@pytest.mark.parametrize(
    ("mode", "expected", "gradient"),
    [
        ("token-mean", 9 / 4, [[1 / 4, 1 / 4, 1 / 4], [1 / 4, 0, 0], [0, 0, 0]]),
        ("seq-mean-token-mean", 17 / 6, [[1 / 6, 1 / 6, 1 / 6], [1 / 2, 0, 0], [0, 0, 0]]),
        ("seq-mean-token-sum", 9 / 2, [[1 / 2, 1 / 2, 1 / 2], [1 / 2, 0, 0], [0, 0, 0]]),
        ("seq-mean-token-sum-norm", 9 / 20, [[0.05, 0.05, 0.05], [0.05, 0, 0], [0, 0, 0]]),
    ],
)
def test_hand_computed(mode, expected, gradient):
    """Catches dividing by B instead of by the non-empty sequences, and padding in the sums."""
    loss = torch.tensor([[1.0, 2, 2], [4, 99, 99], [99, 99, 99]], requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    got = aggregate(loss, mask, mode, max_length=10)
    got.backward()
    assert got.item() == pytest.approx(expected)
    torch.testing.assert_close(loss.grad, torch.tensor(gradient))


def test_sum_norm_takes_the_padded_length_by_default():
    loss, mask = torch.ones(2, 5), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 1:] = False
    assert aggregate(loss, mask, "seq-mean-token-sum-norm").item() == pytest.approx(6 / 5 / 2)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), mode=st.sampled_from(MODES), seed=st.integers(0, 2**31))
def test_micro_batches_add_up(data, mode, seed):
    """Given the global count, any split into micro-batches gives the same loss and gradient."""
    generator = torch.Generator().manual_seed(seed)
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    loss = torch.randn(sum(sizes), 7, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.rand(sum(sizes), 7, generator=generator) < 0.4
    normalizer = count(mask, mode)
    whole = aggregate(loss, mask, mode)
    (expected,) = torch.autograd.grad(whole, loss)
    parts = [
        aggregate(piece, kept, mode, normalizer=normalizer)
        for piece, kept in zip(loss.split(sizes), mask.split(sizes), strict=True)
    ]
    total = torch.stack(parts).sum()
    (gradient,) = torch.autograd.grad(total, loss)
    torch.testing.assert_close(total, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    assert sum(count(kept, mode) for kept in mask.split(sizes)) == normalizer


@pytest.mark.parametrize("mode", MODES)
def test_padding_may_be_nan_and_empty_masks_give_zero(mode):
    loss = torch.full((2, 3), math.nan, requires_grad=True)
    got = aggregate(loss, torch.zeros(2, 3, dtype=torch.bool), mode)
    got.backward()
    assert got == 0
    assert torch.equal(loss.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("mode", MODES)
def test_normalizer_divides_and_keeps_the_dtype(mode):
    """A float64 normaliser must not promote a float32 loss; a fractional one must divide."""
    loss, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    number = aggregate(loss, mask, mode, normalizer=0.5)
    tensor = aggregate(loss, mask, mode, normalizer=torch.tensor(0.5, dtype=torch.float64))
    assert number.dtype == tensor.dtype == torch.float32
    by_count = aggregate(loss, mask, mode) * count(mask, mode)
    assert number.item() == tensor.item() == pytest.approx(2 * by_count.item())


def test_wrong_arguments_are_named():
    loss, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mode: expected one of token-mean, .*got 'mean'"):
        aggregate(loss, mask, "mean")
    with pytest.raises(TypeError, match=r"mask: expected torch.bool, got torch.float32"):
        aggregate(loss, mask.float(), "token-mean")
    with pytest.raises(ValueError, match=r"normalizer: expected shape \[\], got \[2\]"):
        aggregate(loss, mask, "token-mean", normalizer=torch.ones(2))
    with pytest.raises(ValueError, match="max_length: expected a number >= 1, got 0"):
        aggregate(loss, mask, "seq-mean-token-sum-norm", max_length=0)
