from __future__ import annotations

import pytest
import torch

from entropy_ext.rl.advantages import leave_one_out


def test_agrees_with_the_definition():
    """Catches the group mean taken for the mean of the others; groups of 4, 2 and 1."""
    prompt = torch.tensor([0, 1, 0, 0, 1, 0, 7])
    rewards = torch.tensor([1.0, 0.5, 0.0, 0.25, 1.0, 1.0, 3.0], dtype=torch.float64)
    got = leave_one_out(rewards, prompt, torch.ones(7, 2, dtype=torch.bool))
    for i in range(6):
        others = (prompt == prompt[i]) & (torch.arange(7) != i)
        expected = (rewards[i] - rewards[others].mean()).item()
        assert got[i, 0].item() == pytest.approx(expected, abs=1e-15)
    assert got[6].tolist() == [0, 0]
    kept = leave_one_out(rewards, prompt, torch.ones(7, 1, dtype=torch.bool), singleton="reward")
    assert kept[6] == 3


def test_equal_rewards_and_padding_give_exactly_zero():
    mask = torch.tensor([[True, False]] * 3)
    same = torch.full((3,), 0.1)
    assert leave_one_out(same, torch.zeros(3, dtype=torch.int64), mask).abs().max() == 0
    got = leave_one_out(torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3, dtype=torch.int64), mask)
    assert got[:, 1].abs().max() == 0
    torch.testing.assert_close(got[:, 0], torch.tensor([1.0, -0.5, -0.5]))
