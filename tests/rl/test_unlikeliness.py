from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl.advantages import group_zscore, unlikeliness, unlikeliness_reward

REWARDS = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
LOGP = torch.tensor([[-0.1], [-0.5], [-0.3], [-0.9]], dtype=torch.float64)
ONE_GROUP = torch.zeros(4, dtype=torch.int64)
MASK = torch.ones(4, 1, dtype=torch.bool)


def _close(got, expected, atol):
    torch.testing.assert_close(got, torch.tensor(expected).to(got), rtol=0, atol=atol)


def test_hand_computed():
    """Catches descending ranks, ranks among right answers only, and a biased deviation."""
    shaped = unlikeliness_reward(REWARDS, LOGP, ONE_GROUP, MASK)
    _close(shaped, [0.8125, 0.9375, 0.0, 1.0], 1e-12)
    got = unlikeliness(REWARDS, LOGP, ONE_GROUP, MASK)
    _close(got[:, 0], [0.2689, 0.5377, -1.4788, 0.6722], 5e-5)


def test_all_right_group_still_learns():
    shaped = unlikeliness_reward(torch.ones(2), LOGP[:2] - 0.1, ONE_GROUP[:2], MASK[:2])
    _close(shaped, [0.875, 1.0], 1e-7)
    got = unlikeliness(torch.ones(2), LOGP[:2], ONE_GROUP[:2], MASK[:2])
    _close(got[:, 0], [-0.7071, 0.7071], 1e-4)
    assert unlikeliness(torch.zeros(2), LOGP[:2], ONE_GROUP[:2], MASK[:2]).abs().max() == 0


def test_paper_s_form_shifts_right_answers():
    code = unlikeliness_reward(REWARDS, LOGP, ONE_GROUP, MASK)
    paper = unlikeliness_reward(REWARDS, LOGP, ONE_GROUP, MASK, form="paper")
    torch.testing.assert_close(paper, code - 0.25 / 4 * REWARDS)


def test_without_beta_it_is_grpo():
    got = unlikeliness(REWARDS, LOGP, ONE_GROUP, MASK, beta=0.0)
    assert torch.equal(got, group_zscore(REWARDS, ONE_GROUP, MASK))


def test_likelihood_is_per_token_within_the_group():
    """Summed, the long response would be the unlikely one; over the batch, ranks would reach 3."""
    logp = torch.tensor([[-0.5, -0.5, -0.5], [-1.0, math.nan, math.nan]] * 2)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]] * 2, dtype=torch.bool)
    shaped = unlikeliness_reward(torch.ones(4), logp, torch.tensor([3, 3, 1, 1]), mask)
    _close(shaped, [0.875, 1.0, 0.875, 1.0], 1e-7)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_never_nan(bad):
    logp = torch.tensor([[bad, -1.0], [-0.5, -0.5], [bad, bad]])
    mask = torch.tensor([[True, True], [True, True], [False, False]])
    got = unlikeliness(torch.tensor([1.0, 1.0, 0.0]), logp, torch.tensor([0, 0, 5]), mask)
    assert got.isfinite().all()
    assert got[2].abs().max() == 0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="beta: expected a number >= 0 and <= 1, got 2"):
        unlikeliness_reward(REWARDS, LOGP, ONE_GROUP, MASK, beta=2.0)
    with pytest.raises(ValueError, match="form: expected one of code, paper"):
        unlikeliness_reward(REWARDS, LOGP, ONE_GROUP, MASK, form="port")
