"""CISPO, SAPO, DPPO, CE-GPPO, REINFORCE, DRO: numeric cases, limits, edges."""

from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl import ppo_clip
from entropy_ext.rl.losses import ce_gppo, cispo, dppo, dro, reinforce, sapo
from tests.loss_runs import check_edges, run

FREE = {"clip_low": 1.0, "clip_high": math.inf}


def test_cispo_keeps_the_gradient():
    """hi .2, ρ = 1.5: value 1.2·1, gradient −1.2 where PPO has none."""
    got = run(cispo, [-1.0], 1.0, ratio=1.5)
    assert got.loss == pytest.approx([1.2])
    assert got.gradient == pytest.approx([-1.2])
    assert got.metrics["clip_high"] == 1


@pytest.mark.parametrize(
    ("options", "ratio", "weight"),
    [
        ({}, 0.01, 0.01),
        ({"clip_low": 0.2}, 0.01, 0.8),
        ({"clip_high": 4.0}, 9.0, 5.0),
        (FREE, 9.0, 9.0),
    ],
)
def test_cispo_bounds(options, ratio, weight):
    """No lower bound by default; TRL's absolute cap of 5 is clip_high = 4."""
    for advantage in (1.0, -2.0):
        got = run(cispo, [-1.0], advantage, ratio=ratio, **options)
        assert got.gradient == pytest.approx([-advantage * weight])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.2, 1.0, -2.199336, -1.188080),
        (1.2, -1.0, 2.104030, 1.186867),
        (1.0, 1.0, -2.0, -1.0),
        (1.0, -1.0, 2 / 1.05, 1.0),
    ],
)
def test_sapo_cases(ratio, advantage, loss, gradient):
    got = run(sapo, [-1.0], advantage, ratio=ratio)
    assert got.loss == pytest.approx([loss], abs=1e-6)
    assert got.gradient == pytest.approx([gradient], abs=1e-6)


def test_cispo_counts_weights_at_the_bounds():
    """Whatever the advantage, on unmasked tokens only."""
    ratios, mask = [0.1, 1.0, 1.5, 9.0, 0.1], [1, 1, 1, 0, 0]
    got = run(cispo, [-1.0] * 5, [1.0, 1.0, -1.0, 1.0, 1.0], ratio=ratios, mask=mask, clip_low=0.2)
    assert (got.metrics["clip_low"], got.metrics["clip_high"]) == (1, 1)


def test_sapo_gate():
    """4σ(1 − σ): 1 at ρ = 1, the share of the slope that is left elsewhere; padding has none."""
    got = run(sapo, [-1.0] * 3, 1.0, ratio=[1.0, 1.2, 1.0], mask=[1, 1, 0])
    assert got.metrics["gate"] == pytest.approx(1 + 1.188080 / 1.2, abs=1e-6)


def test_sapo_fades_and_reduces():
    """A small τ is the unclipped ratio, offset; a far ratio has no gradient, and no NaN."""
    soft = run(sapo, [-1.0], 1.0, ratio=3.0, tau_positive=1e-6)
    assert soft.gradient == pytest.approx([-3.0], rel=1e-5)
    assert run(sapo, [-1.0], 1.0, ratio=1e9).gradient == [0.0]
    # τ in the dtype of the inputs: 1.05 rounded to float32 is 5e-8 off.
    assert run(sapo, [-1.0], -1.0).loss == pytest.approx([2 / 1.05], rel=1e-14)


@pytest.mark.parametrize(
    ("old", "new", "advantage", "divergence", "counts"),
    [
        (0.7, 0.9, 1.0, "tv", 0),
        (0.7, 0.9, -1.0, "tv", 1),
        (0.1, 0.2, 1.0, "tv", 1),
        (0.9, 0.7, -1.0, "tv", 0),
        (0.9, 0.7, 1.0, "tv", 1),
        (0.7, 0.9, 1.0, "kl", 0),
        (0.01, 0.03, 1.0, "kl", 1),
        (0.9, 0.5, -1.0, "kl", 0),
        (0.9, 0.5, 1.0, "kl", 1),
    ],
)
def test_dppo_cases(old, new, advantage, divergence, counts):
    """Left out only beyond the threshold and the way of the advantage; a rare token may triple."""
    got = run(dppo, [math.log(new)], advantage, old=[math.log(old)], divergence=divergence)
    assert got.gradient == pytest.approx([-advantage * counts * new / old])
    assert got.metrics["clip_high"] + got.metrics["clip_low"] == 1 - counts


@pytest.mark.parametrize(
    ("old", "new", "divergence", "size"),
    [(0.7, 0.9, "kl", 0.15366), (0.01, 0.03, "kl", 0.0092), (0.7, 0.9, "tv", 0.2)],
)
def test_dppo_divergence_by_bisection(old, new, divergence, size):
    """The mask changes where the threshold crosses the published number."""
    at = {
        t: run(dppo, [math.log(new)], 1.0, old=[math.log(old)], divergence=divergence, threshold=t)
        for t in (size - 1e-4, size + 1e-4)
    }
    assert [got.metrics["clip_high"] for got in at.values()] == [1, 0]


def test_dppo_weight_is_capped_and_certainty_is_no_nan():
    capped = run(dppo, [math.log(0.1)], 1.0, ratio=50.0)
    assert capped.gradient == pytest.approx([-20.0])
    assert capped.metrics["capped"] == 1
    certain = run(dppo, [0.0, -1e-12], 1.0, old=[-1e-9, 0.0], divergence="kl")
    assert certain.gradient == pytest.approx([-1.0, -1.0])


def test_dppo_without_a_threshold_is_importance_weighted_reinforce():
    free = {"threshold": math.inf, "max_weight": math.inf}
    got = run(dppo, [-1.0, -2.0], [1.0, -1.0], ratio=[9.0, 0.1], **free)
    assert got.gradient == pytest.approx([-9.0, 0.1])


@pytest.mark.parametrize(
    ("ratio", "advantage", "value"), [(0.6, -1.0, 0.6), (1.5, 1.0, -1.28), (1.1, 1.0, -1.1)]
)
def test_ce_gppo_cases(ratio, advantage, value):
    """Beyond the bounds the loss and its gradient are β times the bound's; PPO's gradient is 0."""
    got = run(ce_gppo, [-1.0], advantage, ratio=ratio)
    assert got.loss == pytest.approx([value])
    assert got.gradient == pytest.approx([value])


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.3, 0.79, 0.9, 1.27, 1.29, 5.0])
def test_ce_gppo_reduces_to_ppo_and_gppo(ratio, advantage):
    none = run(ce_gppo, [-1.0], advantage, ratio=ratio, beta_low=0.0, beta_high=0.0)
    assert none.gradient == run(ppo_clip, [-1.0], advantage, ratio=ratio, clip_high=0.28).gradient
    whole = run(ce_gppo, [-1.0], advantage, ratio=ratio, beta_low=1.0, beta_high=1.0)
    ppo = run(ppo_clip, [-1.0], advantage, ratio=ratio, clip_high=0.28)
    assert whole.loss == pytest.approx(ppo.loss)
    assert whole.gradient == pytest.approx(whole.loss)


def test_reinforce_and_dro():
    """−A, and −A + β·ln ρ, which vanishes at ln ρ = A/β."""
    assert run(reinforce, [-2.0], 0.5, ratio=7.0).loss == [1.0]
    assert run(reinforce, [-2.0], 0.5, ratio=7.0).gradient == [-0.5]
    got = run(dro, [-2.0], 0.5, old=[-3.0], beta=0.2)
    assert got.loss == pytest.approx([1.0 + 0.1])
    assert got.gradient == pytest.approx([-0.5 + 0.2])
    settled = run(dro, [-2.0], 0.5, old=[-4.5], beta=0.2)
    assert settled.gradient == pytest.approx([0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("token_loss", "options"),
    [
        (cispo, {}),
        (sapo, {}),
        (dppo, {}),
        (dppo, {"divergence": "kl"}),
        (ce_gppo, {}),
        (reinforce, {}),
        (dro, {}),
    ],
)
def test_edges(token_loss, options):
    check_edges(token_loss, **options)


@pytest.mark.parametrize(
    ("token_loss", "options", "message"),
    [
        (cispo, {"clip_low": 1.5}, "clip_low: expected a number >= 0 and <= 1"),
        (sapo, {"tau_negative": 0.0}, "tau_negative: expected a number > 0"),
        (dppo, {"divergence": "js"}, "divergence: expected one of tv, kl"),
        (dppo, {"threshold": -1.0}, "threshold: expected a number >= 0"),
        (ce_gppo, {"beta_low": -1.0}, "beta_low: expected a number >= 0"),
        (dro, {"beta": -1.0}, "beta: expected a number >= 0"),
    ],
)
def test_wrong_options_are_named(token_loss, options, message):
    with pytest.raises(ValueError, match=message):
        run(token_loss, [-1.0], 1.0, **options)


def test_two_sided_clipping_is_the_dual_clip():
    """max(−A·min(ρ, δ), −A·clip(ρ)) with δ above the upper bound: PPO with a dual clip at δ."""
    for ratio in (0.1, 0.79, 1.0, 1.3, 3.9, 4.1, 50.0):
        for advantage in (1.0, -1.0):
            logp = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
            rho = (logp + math.log(ratio)).exp()
            loss = torch.maximum(-advantage * rho.clamp(max=4.0), -advantage * rho.clamp(0.8, 1.2))
            (slope,) = torch.autograd.grad(loss.sum(), logp)
            got = run(ppo_clip, [0.0], advantage, ratio=ratio, dual_clip=4.0)
            assert got.loss == pytest.approx([loss.item()])
            assert got.gradient == pytest.approx([slope.item()])
