from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.losses import off_policy_sequence_mask


def _kept(logp, old, advantage, threshold, mask=None):
    logp, old = torch.tensor([logp]).double(), torch.tensor([old]).double()
    mask = torch.ones(logp.shape, dtype=torch.bool) if mask is None else torch.tensor([mask])
    advantages = torch.full_like(logp, advantage)
    kept = off_policy_sequence_mask(logp, old, advantages, mask, threshold=threshold)
    assert torch.equal(kept, kept & mask)
    return kept[0].tolist()


@pytest.mark.parametrize(
    ("advantage", "threshold", "kept"),
    [
        (-1.0, 0.5, False),
        (0.0, 0.5, True),
        (1.0, 0.5, True),
        (-1.0, 0.61, True),
        (-1.0, 0.59, False),
    ],
)
def test_case(advantage, threshold, kept):
    """Mean distance 0.6: catches a sum for the mean, and a mask on positive sequences."""
    assert _kept([-2.0, -1.2], [-1.0, -1.0], advantage, threshold) == [kept, kept]


def test_the_policy_having_moved_towards_them_is_no_reason():
    """The distance is signed: catches |old − new| and a squared or k3 distance."""
    assert _kept([-0.2, -0.2], [-2.0, -2.0], -1.0, 0.5) == [True, True]


def test_on_policy_is_kept_at_threshold_zero():
    assert _kept([-1.0, -2.0], [-1.0, -2.0], -1.0, 0.0) == [True, True]


def test_padding_and_impossible_tokens():
    """Only the two unmasked, finite tokens count: distance 1.2/3, not NaN and not 1.2/4."""
    nan = math.nan
    got = _kept(
        [-2.0, -1.2, -math.inf, nan], [-1.0, -1.0, -1.0, nan], -1.0, 0.39, [True, True, True, False]
    )
    assert got == [False] * 4
    got = _kept(
        [-2.0, -1.2, -math.inf, nan], [-1.0, -1.0, -1.0, nan], -1.0, 0.41, [True, True, True, False]
    )
    assert got == [True, True, True, False]
    assert _kept([nan, nan], [nan, nan], -1.0, 0.0, [False, False]) == [False, False]


def test_sequences_do_not_mix_and_nothing_is_asked():
    logp = torch.tensor([[-3.0, -3.0], [-1.0, -1.0]])
    old = torch.full((2, 2), -1.0)
    mask = torch.ones(2, 2, dtype=torch.bool)
    kept = off_policy_sequence_mask(logp, old, -mask.float(), mask, threshold=0.5)
    assert kept.tolist() == [[False, False], [True, True]]
    with FakeTensorMode():
        x = torch.empty(2, 3)
        off_policy_sequence_mask(x, x, x, torch.empty(2, 3, dtype=torch.bool), threshold=0.1)
    with pytest.raises(ValueError, match="threshold: expected a number >= 0"):
        off_policy_sequence_mask(logp, old, old, mask, threshold=-1.0)
