from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl.losses import minirl
from tests.loss_runs import check_edges, row, run


def test_mismatch_weighs_but_does_not_clip():
    """Same ratio to the sampler, 1.284 > 1.27: only the trainer's own ratio may drop a token."""
    rollout_logp = row([-1.25])
    moved = run(minirl, [-1.0], 1.0, old=[-1.3], rollout_logp=rollout_logp)
    assert moved.loss == moved.gradient == [0.0]
    assert moved.metrics["clip_high"] == 1
    kept = run(minirl, [-1.0], 1.0, old=[-1.1], rollout_logp=rollout_logp)
    assert kept.loss == pytest.approx([1.284025])
    assert kept.gradient == pytest.approx([-1.284025])
    assert kept.metrics["clip_high"] == 0


@pytest.mark.parametrize(
    ("advantage", "ratio", "counts"),
    [(1.0, 1.26, 1), (1.0, 1.28, 0), (1.0, 0.1, 1), (-1.0, 0.81, 1), (-1.0, 0.79, 0), (-1.0, 9, 1)],
)
def test_mask_by_sign(advantage, ratio, counts):
    got = run(minirl, [-1.0], advantage, ratio=ratio, rollout_logp=row([-1.0]))
    assert got.gradient == pytest.approx([-advantage * counts])


def test_weight_is_capped():
    got = run(minirl, [-1.0], 1.0, rollout_logp=row([-1.0 - math.log(8)]))
    assert got.gradient == pytest.approx([-5.0])
    assert got.metrics["capped"] == 1
    free = run(minirl, [-1.0], 1.0, rollout_logp=row([-1.0 - math.log(8)]), max_weight=10.0)
    assert free.gradient == pytest.approx([-8.0])


def test_on_policy_without_mismatch_it_is_reinforce():
    logp, advantages = [-0.3, -2.0, -1.0], [1.0, -0.5, 2.0]
    got = run(minirl, logp, advantages, rollout_logp=row(logp))
    assert got.gradient == pytest.approx([-1.0, 0.5, -2.0])
    assert got.loss == pytest.approx([-a * lp for a, lp in zip(advantages, logp, strict=True)])


def test_edges():
    check_edges(minirl, rollout_logp=torch.tensor([[-1.0, -1.0, math.nan]]))
    unsampled = run(minirl, [-1.0, -1.0], 1.0, rollout_logp=row([-math.inf, -1.0]))
    assert unsampled.gradient == [0, -1]
    assert unsampled.metrics["nonfinite_logp"] == 1
