from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.importance import masked_importance, truncated_importance

NAN = math.nan
# Ratios 0.25, 1, 3 and 8 of trainer to sampler; their geometric mean is 6^(1/4).
TRAINER = torch.tensor([[-3.0, -1.0, -0.5, -0.25]], dtype=torch.float64)
SAMPLER = TRAINER - torch.tensor([[0.25, 1.0, 3.0, 8.0]], dtype=torch.float64).log()
MASK = torch.ones(1, 4, dtype=torch.bool)


def _weights(function, **options):
    return function(TRAINER, SAMPLER, MASK, **options)[0].tolist()


def test_truncated():
    """Catches the ratio upside down, which would truncate the first token."""
    assert _weights(truncated_importance) == pytest.approx([0.25, 1, 2, 2])
    assert _weights(truncated_importance, low=0.5, high=5.0) == pytest.approx([0.5, 1, 3, 5])
    assert _weights(truncated_importance, high=math.inf) == pytest.approx([0.25, 1, 3, 8])


def test_masked():
    """Out of bounds is 0, not the bound; by sequence the geometric mean 6^(1/4) = 1.565 decides."""
    assert _weights(masked_importance) == pytest.approx([0, 1, 3, 0])
    assert _weights(masked_importance, level="sequence") == pytest.approx([0.25, 1, 3, 8])
    assert _weights(masked_importance, level="sequence", high=1.5) == [0, 0, 0, 0]
    assert _weights(masked_importance, level="sequence", low=1.56, high=1.57) == pytest.approx(
        [0.25, 1, 3, 8]
    )


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("ratio", "weight"), [(0.45, 0), (0.55, 0.55), (4.9, 4.9), (5.1, 0)])
def test_default_bounds_of_one_token(level, ratio, weight):
    """A sequence of one token is judged by that token, not by half its logarithm."""
    mask = torch.tensor([[True, False]])
    sampler = torch.tensor([[-1.0 - math.log(ratio), NAN]], dtype=torch.float64)
    trainer = torch.tensor([[-1.0, NAN]], dtype=torch.float64)
    got = masked_importance(trainer, sampler, mask, level=level)
    assert got[0].tolist() == pytest.approx([weight, 0])


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_an_exact_sampler_changes_nothing(level):
    ones = masked_importance(TRAINER, TRAINER, MASK, level=level, low=1.0, high=1.0)
    assert ones.tolist() == truncated_importance(TRAINER, TRAINER, MASK).tolist() == [[1] * 4]


def test_sequences_do_not_mix_and_nan_stays_out():
    trainer = torch.tensor([[-1.0, NAN, -math.inf], [-1.0, -1.0, NAN], [NAN, NAN, NAN]])
    sampler = torch.tensor([[-9.0, -1.0, -1.0], [-1.0, -math.inf, NAN], [NAN, NAN, NAN]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    got = masked_importance(trainer, sampler, mask, level="sequence")
    assert got.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 0]]
    got = truncated_importance(trainer, sampler, mask)
    assert got.tolist() == [[2, 1, 1], [1, 1, 0], [0, 0, 0]]


def test_arguments_and_no_host_sync():
    with FakeTensorMode():
        x, mask = torch.empty(2, 3), torch.empty(2, 3, dtype=torch.bool)
        truncated_importance(x, x, mask)
        masked_importance(x, x, mask, level="sequence")
    with pytest.raises(ValueError, match="high: expected a number >= 3, got 2"):
        truncated_importance(TRAINER, SAMPLER, MASK, low=3.0)
    with pytest.raises(ValueError, match="level: expected one of token, sequence"):
        masked_importance(TRAINER, SAMPLER, MASK, level="batch")
