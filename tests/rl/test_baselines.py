from __future__ import annotations

import pytest
import torch

from entropy_ext.rl.advantages import group_mean, opo


def _mask(lengths):
    return torch.arange(max(*lengths, 1)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize(
    ("rewards", "lengths", "expected"),
    [
        ([1, 0], [1, 3], [0.75, -0.25]),
        ([1, 0, 1], [10, 30, 20], [0.5, -0.5, 0.5]),
        ([1, 1, 0, 0], [100, 200, 400, 800], [0.8, 0.8, -0.2, -0.2]),
    ],
)
def test_opo_by_hand(rewards, lengths, expected):
    """Baselines 0.25, 0.5 and 0.2; the summed advantage mass of a group is 0."""
    rewards = torch.tensor(rewards, dtype=torch.float64)
    mask, prompt = _mask(lengths), torch.zeros(len(lengths), dtype=torch.int64)
    advantages = opo(rewards, prompt, mask)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(advantages, torch.where(mask, expected[:, None], 0.0))
    assert advantages.sum().item() == pytest.approx(0, abs=1e-10)


def test_opo_of_equal_lengths_is_the_group_mean():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(12, generator=generator, dtype=torch.float64)
    prompt = torch.randint(0, 3, (12,), generator=generator)
    mask = torch.ones(12, 5, dtype=torch.bool)
    ours = opo(rewards, prompt, mask)
    torch.testing.assert_close(ours, group_mean(rewards, prompt, mask), rtol=0, atol=1e-12)


def test_opo_is_per_group():
    rewards, prompt = torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([3, 1, 3, 1])
    advantages = opo(rewards, prompt, _mask([1, 2, 3, 2]))
    assert advantages[:, 0].tolist() == [0.75, 0.0, -0.25, 0.0]


def test_opo_where_nothing_can_be_weighed():
    """Equal rewards, a group of one, and a group without a token: 0, not a residue or 0/0."""
    prompt = torch.zeros(3, dtype=torch.int64)
    for reward in (0.1, 0.3, 1 / 3, 0.7):
        for lengths in ([1, 1, 7], [1, 2, 4], [3, 5, 7]):
            assert opo(torch.full((3,), reward), prompt, _mask(lengths)).abs().max() == 0
    alone = torch.tensor([1.0, 0.5])
    assert opo(alone, torch.arange(2), _mask([2, 1])).abs().max() == 0
    kept = opo(alone, torch.arange(2), _mask([2, 1]), singleton="reward")
    assert kept.tolist() == [[1.0, 1.0], [0.5, 0.0]]
    empty = torch.zeros(2, 3, dtype=torch.bool)
    assert opo(torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.int64), empty).abs().max() == 0
