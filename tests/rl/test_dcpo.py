from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl import ppo_clip
from entropy_ext.rl.losses import dcpo, dcpo_bounds
from tests.loss_runs import check_edges, run


@pytest.mark.parametrize(
    ("q", "low", "high"),
    [(0.01, 0.5, 5.0), (0.1, 0.5, 2.0), (0.5, 0.5, 1.3062), (0.9, 0.7687, 1.1872)],
)
def test_bounds(q, low, high):
    """Values, and what they do: the gradient −A·ρ goes at the bound on the side of A."""
    lower, upper = dcpo_bounds(torch.tensor([[q]], dtype=torch.float64).log())
    assert (lower.item(), upper.item()) == pytest.approx((low, high), abs=5e-5)
    old = math.log(q)
    for ratio, advantage, held in (
        (high + 1e-3, 1.0, True),
        (high - 1e-3, 1.0, False),
        (high + 1e-3, -1.0, False),
        (low - 1e-3, -1.0, True),
        (low + 1e-3, -1.0, False),
        (low - 1e-3, 1.0, False),
    ):
        got = run(dcpo, [old + math.log(ratio)], advantage, old=[old])
        bound = high if advantage > 0 else low
        assert got.loss == pytest.approx([-advantage * (bound if held else ratio)], abs=5e-5)
        assert got.gradient == pytest.approx([0.0 if held else -advantage * ratio])
        assert got.metrics["clip_high"] + got.metrics["clip_low"] == held


def test_bounds_are_of_the_step_in_probability():
    """|ρ − 1|·ρ·q = ε at both bounds, where the lower one exists."""
    q = torch.tensor([0.7, 0.9, 1.0], dtype=torch.float64)
    low, high = dcpo_bounds(q.log())
    torch.testing.assert_close((1 - low) * low * q, torch.full_like(q, 0.16))
    torch.testing.assert_close((high - 1) * high * q, torch.full_like(q, 0.2))


def test_a_certain_token_is_ppo_s():
    """q = 1: the bounds are (1 + √(1 − 4ε))/2 and (1 + √(1 + 4ε))/2, here 0.8 and 1.2."""
    options = {"eps_low": 0.16, "eps_high": 0.24}
    for ratio in (0.5, 0.79, 0.81, 1.0):
        for advantage in (1.0, -1.0):
            ours = run(dcpo, [math.log(ratio)], advantage, old=[0.0], **options)
            ppo = run(ppo_clip, [math.log(ratio)], advantage, old=[0.0])
            assert ours.loss == pytest.approx(ppo.loss)
            assert ours.gradient == pytest.approx(ppo.gradient)
    assert dcpo_bounds(torch.zeros(1).double(), **options)[1].item() == pytest.approx(1.2)


def test_bounds_of_rare_tokens_are_numbers():
    """float16 has no e¹², and 0·∞ is NaN: the bounds would let such a token through unclipped."""
    rare = torch.tensor([[-12.0, -200.0, -math.inf]])
    for eps in (0.0, 0.2):
        for old in (rare, rare.half()):
            low, high = dcpo_bounds(old, eps_low=eps, eps_high=eps)
            assert (high.diff() >= 0).all()
            assert low.tolist() == [[0.5 if eps else 1.0] * 3]
    exact = 0.5 + 0.5 * math.sqrt(1 + 0.8 * math.exp(12))
    assert high[0, 0].item() == pytest.approx(exact)


def test_edges():
    check_edges(dcpo)
    with pytest.raises(ValueError, match="eps_low: expected a finite number >= 0"):
        run(dcpo, [-1.0], 1.0, eps_low=-0.1)
