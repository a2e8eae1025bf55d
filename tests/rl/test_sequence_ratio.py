from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl import ppo_clip
from entropy_ext.rl.aggregate import aggregate
from entropy_ext.rl.losses import gmpo, gspo, vespo
from tests.loss_runs import check_edges, run

DRIFT = [math.exp(0.02), math.exp(-0.01), math.exp(0.005)]


def test_gspo_clips_by_the_mean():
    """ln s = .005: s = 1.0050125 > 1.0004, so that A > 0 has no gradient and A < 0 all of it."""
    held = run(gspo, [-1.0, -2.0, -0.5], 1.0, ratio=DRIFT)
    assert held.loss == pytest.approx([-1.0004] * 3)
    assert held.gradient == [0, 0, 0]
    assert held.metrics["clip_high"] == 3
    free = run(gspo, [-1.0, -2.0, -0.5], -1.0, ratio=DRIFT)
    assert free.loss == pytest.approx([1.0050125] * 3, abs=1e-7)
    assert free.gradient == pytest.approx([1.0050125] * 3, abs=1e-7)


def test_gspo_gradient_is_that_of_the_sequence():
    """Averaged over its tokens, the token form must have the gradient of −A·s."""
    logp = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.1, -1.9, -0.7]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    advantages = torch.full((1, 3), 0.7, dtype=torch.float64)
    wide = {"clip_low": 1.0, "clip_high": math.inf}
    loss = aggregate(gspo(logp, old, advantages, mask, **wide).loss, mask, "seq-mean-token-mean")
    (gradient,) = torch.autograd.grad(loss, logp)
    whole = -0.7 * ((logp - old)[:, :2].sum() / 2).exp()
    (expected,) = torch.autograd.grad(whole, logp)
    assert loss.item() == pytest.approx(whole.item())
    torch.testing.assert_close(gradient, expected)


def test_gspo_of_one_token_is_ppo():
    one = run(gspo, [-1.0], 1.0, ratio=1.15, clip_low=0.2, clip_high=0.2)
    assert one[:2] == run(ppo_clip, [-1.0], 1.0, ratio=1.15)[:2]


def test_gspo_holds_the_logarithm():
    got = run(gspo, [-1.0, -1.0], -1.0, ratio=math.exp(12), clip_high=math.inf, clip_low=1.0)
    assert got.loss == pytest.approx([math.exp(10)] * 2)
    assert got.gradient == [0, 0]


@pytest.mark.parametrize(
    ("advantage", "held"), [(1.0, [True, False, False]), (-1.0, [False, True, False])]
)
def test_gmpo_clips_tokens_within_the_mean(advantage, held):
    """ln ρ = .6, −.7, .1 under ±.4: each bound acts for one sign of A only."""
    drift = [0.6, -0.7, 0.1]
    got = run(gmpo, [-1.0, -2.0, -0.5], advantage, ratio=[math.exp(d) for d in drift])
    used = [math.copysign(0.4, d) if h else d for d, h in zip(drift, held, strict=True)]
    mean = math.exp(sum(used) / 3)
    assert got.loss == pytest.approx([-advantage * mean] * 3)
    # Each of three tokens' losses depends on each d: 3·(1/3).
    assert got.gradient == pytest.approx([0 if h else -advantage * mean for h in held])


def test_gmpo_without_advantage_or_bounds():
    assert run(gmpo, [-1.0, -1.0], 0.0, ratio=2.0).gradient == [0, 0]
    free = run(gmpo, [-1.0, -2.0], 1.0, ratio=[3.0, 0.2], clip_low=math.inf, clip_high=math.inf)
    assert free.loss == pytest.approx([-math.sqrt(0.6)] * 2)
    one, ppo = run(gmpo, [-1.0], 1.0, ratio=1.3), run(ppo_clip, [-1.0], 1.0, ratio=1.3, clip_high=1)
    assert one.loss == pytest.approx(ppo.loss)
    assert one.gradient == pytest.approx(ppo.gradient)


@pytest.mark.parametrize(
    ("whole", "advantage", "weight"),
    [
        (1.0, 1.0, 1.0),
        (1.0, -1.0, 1.0),
        (1.5, 1.0, 0.5020),
        (0.5, -1.0, 0.3398),
        (1.5, 0.0, 0.5020),
    ],
)
def test_vespo_weight(whole, advantage, weight):
    """φ(1) = 1, φ(1.5; 2, 3), φ(.5; 3, 2); W is the product over the tokens, not their mean."""
    got = run(vespo, [-1.0, -2.0], advantage, ratio=[math.sqrt(whole)] * 2)
    assert got.gradient == pytest.approx([-advantage * weight] * 2, abs=5e-5)
    assert got.loss == pytest.approx([advantage * weight, 2 * advantage * weight], abs=1e-4)
    assert got.metrics["weight"] == pytest.approx(2 * weight, abs=1e-4)


def test_vespo_fades_far_off_the_policy():
    for ratio in (1e9, 1e-9):
        assert run(vespo, [-1.0, -1.0], 1.0, ratio=ratio).gradient == pytest.approx(
            [0, 0], abs=1e-12
        )
    flat = {f"{n}_{s}": 0.0 for n in ("k", "lambda") for s in ("positive", "negative")}
    assert run(vespo, [-1.0], 2.0, ratio=7.0, **flat).gradient == [-2.0]


@pytest.mark.parametrize("token_loss", [gspo, gmpo, vespo])
def test_sequences_do_not_mix(token_loss):
    """A second sequence far away must not change the first's loss."""
    logp = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    ones, mask = torch.ones_like(logp), torch.ones(2, 2, dtype=torch.bool)
    near, far = logp - 1e-4, logp.clone()
    far[1] = -9.0
    far[0] = near[0]
    one = token_loss(logp, near, ones, mask).loss
    assert torch.equal(token_loss(logp, far, ones, mask).loss[0], one[0])


@pytest.mark.parametrize("token_loss", [gspo, gmpo, vespo])
def test_edges(token_loss):
    wide = {} if token_loss is vespo else {"clip_low": 1.0, "clip_high": 1.0}
    check_edges(token_loss, **wide)


def test_wrong_bounds_are_named():
    with pytest.raises(ValueError, match="clip_low: expected a number >= 0"):
        run(gmpo, [-1.0], 1.0, clip_low=-1.0)
    with pytest.raises(ValueError, match="k_negative: expected a number >= 0"):
        run(vespo, [-1.0], 1.0, k_negative=-1.0)
