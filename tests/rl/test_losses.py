from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl import ppo_clip
from entropy_ext.rl.aggregate import aggregate


def _tensors(ratio, advantages, mask):
    logp = torch.tensor(ratio, dtype=torch.float64).log().requires_grad_()
    old_logp = torch.zeros_like(logp)
    advantages = torch.tensor(advantages, dtype=torch.float64)
    return logp, old_logp, advantages, torch.tensor(mask, dtype=torch.bool)


RATIO = [[1.5, 1.1], [0.5, 0.9]]
ADVANTAGES = [[1.0, 1.0], [-1.0, -1.0]]
MASK = [[1, 1], [1, 0]]


def test_dapo_case_values_and_gradients():
    """Catches swapped bounds, a wrong sign, and a gradient through a clipped token."""
    logp, old_logp, advantages, _ = _tensors(RATIO, ADVANTAGES, MASK)
    whole = torch.ones(2, 2, dtype=torch.bool)
    loss, metrics = ppo_clip(
        logp, old_logp, advantages, whole, clip_low=0.2, clip_high=0.28, dual_clip=10.0
    )
    expected = torch.tensor([[-1.28, -1.1], [0.8, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    # d(−Aρ)/dlogp = −Aρ where unclipped, 0 where clipped.
    gradient = torch.tensor([[0.0, -1.1], [0.0, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(logp.grad, gradient)
    assert metrics["clip_high"] == 1
    assert metrics["clip_low"] == 1
    assert metrics["dual_clip"] == 0
    assert metrics["tokens"] == 4
    kl_old = sum(r - 1 - math.log(r) for row in RATIO for r in row)
    assert metrics["kl_old"].item() == pytest.approx(kl_old)


@pytest.mark.parametrize(
    ("mode", "expected", "share"),
    [
        ("token-mean", -0.5266667, 1 / 3),
        ("seq-mean-token-mean", -0.195, 1 / 4),
        ("seq-mean-token-sum", -0.79, 1 / 2),
        ("seq-mean-token-sum-norm", -0.395, 1 / 4),
    ],
)
def test_dapo_case_aggregated(mode, expected, share):
    """Only the second token is neither clipped nor padding: −Aρ times its share of the mean."""
    logp, old_logp, advantages, mask = _tensors(RATIO, ADVANTAGES, MASK)
    loss, _ = ppo_clip(logp, old_logp, advantages, mask, clip_high=0.28, dual_clip=10.0)
    total = aggregate(loss, mask, mode)
    assert total.item() == pytest.approx(expected, abs=1e-7)
    (slope,) = torch.autograd.grad(total, logp)
    assert slope.flatten().tolist() == pytest.approx([0, -1.1 * share, 0, 0])


@pytest.mark.parametrize(
    ("dual_clip", "expected", "gradient"), [(10.0, 10.0, 0.0), (3.0, 3.0, 0.0), (None, 20.0, 20.0)]
)
def test_dual_clip_bounds_the_loss_of_negative_advantages(dual_clip, expected, gradient):
    logp, old_logp, advantages, mask = _tensors([[20.0]], [[-1.0]], [[1]])
    loss, metrics = ppo_clip(logp, old_logp, advantages, mask, dual_clip=dual_clip)
    loss.sum().backward()
    assert loss.item() == pytest.approx(expected)
    assert logp.grad.item() == pytest.approx(gradient)
    assert metrics["dual_clip"] == int(dual_clip is not None)


def test_dual_clip_leaves_positive_advantages_alone():
    logp, old_logp, advantages, mask = _tensors([[20.0]], [[1.0]], [[1]])
    loss, metrics = ppo_clip(logp, old_logp, advantages, mask, clip_high=100.0, dual_clip=3.0)
    assert loss.item() == pytest.approx(-20.0)
    assert metrics["dual_clip"] == 0


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.3, 0.79, 0.81, 1.0, 1.27, 1.29, 5.0])
def test_agrees_with_the_published_minimum(ratio, advantage):
    """The where-form must equal max(−Aρ, −A·clip(ρ)) in value and in autograd's gradient."""
    logp, old_logp, advantages, mask = _tensors([[ratio]], [[advantage]], [[1]])
    loss, _ = ppo_clip(logp, old_logp, advantages, mask, clip_low=0.2, clip_high=0.28)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    rho = logp.exp()
    published = torch.maximum(-advantages * rho, -advantages * rho.clamp(0.8, 1.28))
    (expected,) = torch.autograd.grad(published.sum(), logp)
    torch.testing.assert_close(loss, published)
    torch.testing.assert_close(gradient, expected)


def test_log_ratio_is_clamped_with_zero_gradient():
    logp = torch.tensor([[0.0, 0.0]], requires_grad=True)
    old_logp = torch.tensor([[-30.0, -19.0]])
    advantages = torch.full((1, 2), -1.0)
    loss, _ = ppo_clip(logp, old_logp, advantages, torch.ones(1, 2, dtype=torch.bool))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([[20.0, 19.0]]).exp())
    torch.testing.assert_close(logp.grad, torch.tensor([[0.0, math.exp(19.0)]]))


@pytest.mark.parametrize(
    ("new", "old"),
    [(-math.inf, -1.0), (-1.0, -math.inf), (-math.inf, -math.inf), (math.nan, -1.0)],
)
def test_nonfinite_logp_counts_as_ratio_one_without_gradient(new, old):
    """Catches NaN from −inf − (−inf), and a gradient that would revive an impossible token."""
    logp = torch.tensor([[new, -1.0]], requires_grad=True)
    old_logp = torch.tensor([[old, -1.0]])
    advantages = torch.tensor([[2.0, 2.0]])
    loss, metrics = ppo_clip(logp, old_logp, advantages, torch.ones(1, 2, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == [[-2.0, -2.0]]
    assert logp.grad.tolist() == [[0.0, -2.0]]
    assert metrics["nonfinite_logp"] == 1
    assert metrics["kl_old"] == 0


def test_padding_may_hold_anything():
    """Catches masking by product: 0·NaN and 0·inf are NaN, forward and backward."""
    junk = [math.nan, math.inf, -math.inf]
    logp = torch.tensor([[-1.0, *junk]], requires_grad=True)
    old_logp = torch.tensor([[-1.5, *reversed(junk)]])
    advantages = torch.tensor([[1.0, math.nan, math.inf, -math.inf]])
    mask = torch.tensor([[True, False, False, False]])
    loss, metrics = ppo_clip(logp, old_logp, advantages, mask, clip_high=10.0)
    aggregate(loss, mask, "token-mean").backward()
    ratio = math.exp(0.5)
    torch.testing.assert_close(loss, torch.tensor([[-ratio, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(logp.grad, torch.tensor([[-ratio, 0.0, 0.0, 0.0]]))
    assert metrics["nonfinite_logp"] == 0
    assert metrics["tokens"] == 1
    assert metrics["kl_old"].item() == pytest.approx(ratio - 1.5, abs=1e-6)


def test_empty_mask_gives_zero_loss_and_gradient():
    logp = torch.randn(2, 3, requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    loss, metrics = ppo_clip(logp, logp.detach() - 1, torch.ones(2, 3), mask)
    aggregate(loss, mask, "token-mean").backward()
    assert torch.equal(loss, torch.zeros(2, 3))
    assert torch.equal(logp.grad, torch.zeros(2, 3))
    assert all(value == 0 for value in metrics.values())


def test_no_gradient_to_old_logp_or_advantages():
    leaves = [torch.zeros(1, 2, requires_grad=True) for _ in range(3)]
    loss, _ = ppo_clip(leaves[0], leaves[1], leaves[2] + 1, torch.ones(1, 2, dtype=torch.bool))
    loss.sum().backward()
    assert leaves[0].grad is not None
    assert leaves[1].grad is None
    assert leaves[2].grad is None


def test_wrong_arguments_are_named():
    logp, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"old_logp: expected shape \[2, 3\], got \[2, 4\]"):
        ppo_clip(logp, torch.zeros(2, 4), logp, mask)
    with pytest.raises(TypeError, match=r"mask: expected torch.bool, got torch.int64"):
        ppo_clip(logp, logp, logp, mask.long())
    with pytest.raises(ValueError, match=r"dual_clip: expected a number > 1, got 1.0"):
        ppo_clip(logp, logp, logp, mask, dual_clip=1.0)
    with pytest.raises(ValueError, match=r"clip_low: expected a number >= 0 and <= 1, got 1.2"):
        ppo_clip(logp, logp, logp, mask, clip_low=1.2)
    with pytest.raises(ValueError, match=r"clip_high: expected a number >= 0, got nan"):
        ppo_clip(logp, logp, logp, mask, clip_high=math.nan)
