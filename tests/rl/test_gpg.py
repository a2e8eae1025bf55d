from __future__ import annotations

import pytest
import torch

from entropy_ext.rl.advantages import gpg, group_mean

PROMPT = torch.zeros(4, dtype=torch.int64)
MASK = torch.ones(4, 1, dtype=torch.bool)


def test_case():
    """One of four earns something: α = 4, A = [3, −1, −1, −1]."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert gpg(rewards, PROMPT, MASK)[:, 0].tolist() == [3, -1, -1, -1]
    assert gpg(rewards, PROMPT, MASK, scale=2.0)[:, 0].tolist() == [1.5, -0.5, -0.5, -0.5]


def test_where_all_earn_it_is_the_group_mean():
    rewards = torch.tensor([1.0, 2.0, -1.0, 0.5])
    assert torch.equal(gpg(rewards, PROMPT, MASK), group_mean(rewards, PROMPT, MASK))


def test_nothing_earned_is_zero_not_nan():
    assert gpg(torch.zeros(4), PROMPT, MASK).abs().max() == 0
    assert gpg(torch.zeros(0), PROMPT[:0], MASK[:0]).shape == (0, 1)
    with pytest.raises(ValueError, match="scale: expected a number > 0"):
        gpg(torch.zeros(4), PROMPT, MASK, scale=0.0)
