from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import TokenStats
from sim.rlvr.metrics import critic_metrics, sampled_metrics, sampled_sums, update_metrics
from sim.rlvr.sampling import Samples

MASK = torch.tensor([[True, True], [True, False], [True, True]])


def _stats(logp, entropy=0.5):
    logp = torch.tensor(logp)
    return TokenStats(logp, torch.full_like(logp, entropy), torch.zeros_like(logp))


def _sums(stored):
    samples = Samples(
        torch.zeros(3, 2, dtype=torch.int64),
        MASK,
        logp=torch.zeros(3, 2),
        truncated=torch.tensor([True, False, False]),
        teacher=torch.tensor([False, False, True]),
    )
    stats = _stats([[-1.0, -2.0], [-3.0, math.nan], [-9.0, -9.0]])
    reference = _stats([[-1.5, -2.0], [-2.0, math.nan], [-0.0, -0.0]])
    correct = torch.tensor([True, False, True])
    return sampled_sums(samples, correct, stats, reference, stored=stored)


def test_measures_are_means_over_all_draws_of_what_the_policy_sampled():
    """By hand: two own responses of three tokens; d = ref − logp is −0.5, 0 and 1 there."""
    forward = (math.exp(-0.5) - 1 + 0.5) + (math.exp(1) - 1 - 1)
    metrics = sampled_metrics([_sums(False), _sums(False)])
    assert metrics == pytest.approx(
        {
            "reward": 0.5,
            "entropy": 0.5,
            "kl_reference": forward / 3,
            "length": 1.5,
            "truncated": 0.5,
            "sampled": 4,
        },
        rel=1e-6,
    )


def test_stored_responses_measure_the_divergence_from_the_reference():
    """They are samples of it: e^(ref − logp) would weigh what the policy has given up by e^20."""
    backward = (math.exp(0.5) - 1 - 0.5) + (math.exp(-1) - 1 + 1)
    assert sampled_metrics([_sums(True)])["kl_reference"] == pytest.approx(backward / 3, rel=1e-6)


def test_sums_become_means_over_tokens_and_over_updates():
    sums = {
        "tokens": 10.0,
        "updates": 2.0,
        "loss": 3.0,
        "gradient_norm": 4.0,
        "clip_low": 1.0,
        "clip_high": 2.0,
        "dual_clip": 1.0,
        "kl_old": 0.5,
        "nonfinite_logp": 3.0,
        "nonfinite_ref": 2.0,
        "teacher_p": 5.0,
    }
    assert update_metrics(sums) == {
        "clip_fraction": 0.4,
        "clip_low": 0.1,
        "clip_high": 0.2,
        "dual_clip": 0.1,
        "kl_old": 0.05,
        "nonfinite_logp": 3.0,
        "nonfinite_ref": 2.0,
        "loss": 1.5,
        "gradient_norm": 2.0,
        "updates": 2.0,
        "teacher_p": 0.5,
    }
    assert all(value == 0 for value in update_metrics({}).values())


def test_explained_variance_by_hand():
    """Returns spread by 4 in squares, of which errors of 1 are left."""
    sums = {"updates": 2.0, "value_tokens": 5.0, "value_error": 1.0, "value_spread": 4.0}
    metrics = critic_metrics(sums | {"value_loss": 3.0, "value_gradient_norm": 1.0})
    assert metrics == {
        "value_loss": 1.5,
        "value_gradient_norm": 0.5,
        "explained_variance": 0.75,
        "value_error": 0.2,
    }
    assert "explained_variance" not in critic_metrics({})
