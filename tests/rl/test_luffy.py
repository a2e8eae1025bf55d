from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl import group_mean, group_zscore, ppo_clip
from entropy_ext.rl.aggregate import aggregate
from entropy_ext.rl.losses import mixed_policy
from tests.loss_runs import check_edges, run

UNCLIPPED = {"clip_low": 1.0, "clip_high": math.inf}


def _teacher(*flags):
    return torch.tensor([flags], dtype=torch.bool)


@pytest.mark.parametrize(
    ("p", "value", "weight"),
    [(0.05, 1 / 3, 0.2222), (0.9, 0.9, 0.09), (0.1, 0.5, 0.25), (1.0, 0.909091, 0.0826446)],
)
def test_shaping(p, value, weight):
    """f = p/(p + .1) and its slope in logp, largest at p = γ; catches f taken as a constant."""
    got = run(mixed_policy, [math.log(p)], 1.0, teacher=_teacher(1))
    assert got.loss == pytest.approx([-value], abs=1e-6)
    assert got.gradient == pytest.approx([-weight], abs=4e-5)


def test_group_advantages_with_a_teacher():
    """Teacher 1 and own [1, 0×6]: the teacher's reward is part of the baseline."""
    rewards = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    prompt, mask = torch.zeros(8, dtype=torch.int64), torch.ones(8, 1, dtype=torch.bool)
    assert group_mean(rewards, prompt, mask)[0] == 0.75
    scored = group_zscore(rewards, prompt, mask)
    assert scored[0].item() == pytest.approx(1.6202, abs=5e-5)
    assert scored[7].item() == pytest.approx(-0.5401, abs=5e-5)
    alone = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0])
    assert group_mean(alone, prompt, mask)[:, 0].tolist() == [0.875] + [-0.125] * 7


def test_mixed_batch():
    """Two teacher tokens and one own; Σ/T with T = 4, and the token mean."""
    logp = torch.tensor([[0.05, 0.9, 1.0], [0.5, 1.0, 1.0]], dtype=torch.float64).log()
    logp, old_logp = logp.requires_grad_(), logp.clone()
    advantages = torch.tensor([[0.75, 0.75, 0.0], [-0.25, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    teacher = torch.tensor([[1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    loss, metrics = mixed_policy(logp, old_logp, advantages, mask, teacher=teacher, **UNCLIPPED)
    summed = aggregate(loss, mask, "seq-mean-token-sum-norm", normalizer=1, max_length=4)
    assert summed.item() == pytest.approx(-0.16875)
    mean = aggregate(loss, mask, "token-mean")
    assert mean.item() == pytest.approx(-0.225)
    (slope,) = torch.autograd.grad(mean, logp)
    # −A·γp/(p + γ)² on the teacher's tokens, −A on the own one.
    expected = [-0.75 * 0.2222 / 3, -0.75 * 0.09 / 3, 0, 0.25 / 3, 0, 0]
    assert slope.flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert metrics["teacher_tokens"] == 2
    assert metrics["teacher_p"].item() == pytest.approx(0.95)
    assert metrics["tokens"] == 3


def test_without_a_teacher_it_is_the_clipped_loss():
    logp, advantages, ratio = [-1.0, -2.0, -0.5], [1.0, -1.0, 1.0], [1.5, 0.5, 1.1]
    options = {"clip_low": 0.2, "clip_high": 0.28}
    own = run(mixed_policy, logp, advantages, ratio=ratio, teacher=_teacher(0, 0, 0), **options)
    plain = run(ppo_clip, logp, advantages, ratio=ratio, **options)
    assert own.loss == plain.loss
    assert own.gradient == plain.gradient


def test_teacher_tokens_are_never_clipped():
    """A ratio of 10 to old_logp, which the teacher's tokens must not look at."""
    old = run(mixed_policy, [-1.0], 1.0, ratio=10.0, teacher=_teacher(1))
    assert old.loss == run(mixed_policy, [-1.0], 1.0, teacher=_teacher(1)).loss
    assert old.metrics["clip_high"] == 0
    assert old.gradient[0] < 0


def test_variants():
    """Without shaping the weight is p; with the teacher's probability it is the ratio."""
    bare = run(mixed_policy, [math.log(0.3)], 2.0, teacher=_teacher(1), gamma=None)
    assert bare.loss == pytest.approx([-0.6])
    assert bare.gradient == pytest.approx([-0.6])
    known = run(
        mixed_policy,
        [math.log(0.3)],
        2.0,
        teacher=_teacher(1),
        teacher_logp=torch.tensor([[math.log(0.6)]], dtype=torch.float64),
    )
    assert known.loss == pytest.approx([-2 * 0.3 / (0.6 + 1e-6)])
    assert known.gradient == pytest.approx(known.loss)


@pytest.mark.parametrize("gamma", [0.1, None])
def test_edges(gamma):
    check_edges(mixed_policy, teacher=_teacher(0, 0, 1), gamma=gamma)
    logp = torch.tensor([[-math.inf, math.nan, -1.0]], requires_grad=True)
    ones, written = torch.ones(1, 3), _teacher(1, 1, 1)
    loss, metrics = mixed_policy(logp, ones, ones, written, teacher=written, gamma=gamma)
    loss.sum().backward()
    assert loss[0, :2].tolist() == logp.grad[0, :2].tolist() == [0, 0]
    assert loss[0, 2] < 0
    assert metrics["nonfinite_logp"] == 2


def test_unknown_teacher_probability_moves_nothing():
    logp = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    written = _teacher(1, 1)
    teacher_logp = torch.tensor([[-math.inf, -1.0]])
    ones = torch.ones(1, 2)
    loss, metrics = mixed_policy(
        logp, ones, ones, written, teacher=written, teacher_logp=teacher_logp
    )
    loss.sum().backward()
    assert loss[0, 0] == logp.grad[0, 0] == 0
    assert logp.grad[0, 1] < 0
    assert metrics["nonfinite_logp"] == 1


@pytest.mark.parametrize(("ratio", "advantage"), [(1.21, 1.0), (0.79, -1.0)])
def test_own_tokens_are_clipped_at_a_fifth(ratio, advantage):
    got = run(mixed_policy, [-1.0], advantage, ratio=ratio, teacher=_teacher(0))
    assert got.gradient == [0.0]


def test_wrong_arguments_are_named():
    logp, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="gamma: expected a number > 0, got 0"):
        mixed_policy(logp, logp, logp, mask, teacher=mask, gamma=0.0)
    with pytest.raises(TypeError, match=r"teacher: expected torch.bool"):
        mixed_policy(logp, logp, logp, mask, teacher=logp)
    with pytest.raises(ValueError, match=r"teacher_logp: expected shape \[1, 2\]"):
        mixed_policy(logp, logp, logp, mask, teacher=mask, teacher_logp=torch.zeros(1, 3))
