from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl import ppo_clip
from entropy_ext.rl.losses import fipo, future_weight
from tests.loss_runs import check_edges, row, run

GAMMA = 0.978572


def test_weight_by_hand():
    """γ = 2^(−1/32): the first token's weight discounts the second's ratio by it; padding between
    tokens is passed over. Catches a sum over the past, or over all of the response."""
    mask = torch.tensor([[True, False, True]])
    log_rho = row([0.01, math.nan, 0.05])
    weight = future_weight(log_rho, mask, low=0.0, high=9.0)[0]
    expected = [math.exp(0.01 + GAMMA * 0.05), 0, math.exp(0.05)]
    assert weight.tolist() == pytest.approx(expected, abs=1e-7)
    far = future_weight(row([0.0] * 32 + [0.1]), torch.ones(1, 33, dtype=torch.bool))
    assert far[0, 0].item() == pytest.approx(math.exp(0.05), abs=1e-12)
    held = future_weight(row([0.5, 0.0, -0.3]), torch.ones(1, 3, dtype=torch.bool))
    assert held.tolist() == [[1.2, 1.0, 1.0]]


def test_loss_and_gradient():
    """Weights 1.2 (held), exp(.1) and 1 on a clipped, a free and a fallen token; the weight has no
    gradient of its own."""
    ratio = [math.exp(0.3), math.exp(0.1 + GAMMA * 0.02), math.exp(-0.02)]
    got = run(fipo, [-1.0] * 3, 1.0, ratio=ratio, clip_high=0.2)
    second = math.exp(0.1)
    assert got.loss == pytest.approx([-1.44, -second * ratio[1], -ratio[2]], abs=1e-7)
    assert got.gradient == pytest.approx([0.0, -second * ratio[1], -ratio[2]], abs=1e-7)
    assert got.metrics["weight"] == pytest.approx(2.2 + second, abs=1e-7)
    assert got.metrics["clip_high"] == 1


def test_wrong_tokens_beyond_the_safe_ratio_are_not_weighted_up():
    """[0.8, 1] instead of [1, 1.2], by the ratio of the token itself."""
    drift = [math.exp(0.5), math.exp(-0.6)]
    mixed = run(fipo, [-1.0] * 2, -1.0, ratio=drift, safe_ratio=1.5, clip_low=1.0)
    first = math.exp(0.5 - GAMMA * 0.6)
    assert mixed.loss == pytest.approx([first * drift[0], drift[1]], abs=1e-6)
    assert run(fipo, [-1.0], -1.0, ratio=2.0, safe_ratio=1.5).gradient == pytest.approx([2.0])
    assert run(fipo, [-1.0], -1.0, ratio=2.0).gradient == pytest.approx([2.4])
    assert run(fipo, [-1.0], 1.0, ratio=1.1, safe_ratio=1.0).gradient == pytest.approx([-1.21])


def test_without_weight_it_is_the_clipped_loss():
    logp, advantages, ratio = [-1.0, -2.0, -0.5], [1.0, -1.0, 1.0], [1.5, 0.5, 1.1]
    plain = run(ppo_clip, logp, advantages, ratio=ratio)
    ours = run(fipo, logp, advantages, ratio=ratio, weight_high=1.0)
    assert ours.loss == plain.loss
    assert ours.gradient == plain.gradient


def test_edges():
    check_edges(fipo)
    with pytest.raises(ValueError, match="half_life: expected a number > 0"):
        run(fipo, [-1.0], 1.0, half_life=0.0)
    with pytest.raises(ValueError, match="weight_high: expected a number >= 1 and <= 2"):
        run(fipo, [-1.0], 1.0, weight_high=0.5)
