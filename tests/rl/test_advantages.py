from __future__ import annotations

import pytest
import torch

from entropy_ext.rl import group_mean, group_zscore

ONE_GROUP = torch.zeros(4, dtype=torch.int64)
MASK = torch.ones(4, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 1.0, -1.0, -1.0], [0.8660247, 0.8660247, -0.8660247, -0.8660247]),
        ([1.0, -1.0, -1.0, -1.0], [1.4999985, -0.4999995, -0.4999995, -0.4999995]),
    ],
)
def test_zscore_hand_computed(rewards, expected):
    """Catches a biased std and an eps under the root instead of beside it (both differ in 1e-6)."""
    rewards = torch.tensor(rewards, dtype=torch.float64)
    got = group_zscore(rewards, ONE_GROUP, MASK)[:, 0]
    torch.testing.assert_close(got, torch.tensor(expected).double(), rtol=0, atol=6e-8)


def test_zscore_options():
    rewards = torch.tensor([1.0, 1.0, -1.0, -1.0])
    biased = group_zscore(rewards, ONE_GROUP, MASK, unbiased=False, eps=1.0)
    torch.testing.assert_close(biased[:, 0], rewards / 2)


def test_group_mean_hand_computed():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0])
    mask = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    got = group_mean(rewards, ONE_GROUP, mask)
    expected = [[0.75, 0.75], [-0.25, 0.0], [0.0, 0.0], [-0.25, -0.25]]
    torch.testing.assert_close(got, torch.tensor(expected))


@pytest.mark.parametrize("advantage", [group_mean, group_zscore])
@pytest.mark.parametrize("value", [0.1, -1.0, 7.3])
def test_no_signal_is_exactly_zero(advantage, value):
    """An all-equal group and a group of one must give 0, not rounding noise over eps."""
    rewards = torch.tensor([value] * 6 + [1.0])
    prompt = torch.tensor([1] * 6 + [2])
    got = advantage(rewards, prompt, torch.ones(7, 3, dtype=torch.bool))
    assert torch.equal(got, torch.zeros(7, 3))


@pytest.mark.parametrize("advantage", [group_mean, group_zscore])
def test_singleton_reward_variant(advantage):
    """verl's convention: a response alone in its group keeps its reward as advantage."""
    rewards = torch.tensor([0.5, 1.0, 0.0])
    prompt = torch.tensor([9, 4, 4])
    mask = torch.ones(3, 1, dtype=torch.bool)
    got = advantage(rewards, prompt, mask, singleton="reward")
    assert got[0, 0] == 0.5
    assert torch.equal(got[1:], advantage(rewards, prompt, mask)[1:])


@pytest.mark.parametrize("advantage", [group_mean, group_zscore])
def test_no_gradient_and_no_leak_from_masked_tokens(advantage):
    rewards = torch.tensor([1.0, 0.0], requires_grad=True)
    mask = torch.tensor([[True, False], [False, False]])
    got = advantage(rewards, torch.zeros(2, dtype=torch.int64), mask)
    assert not got.requires_grad
    assert got[0, 1] == 0
    assert got[1].tolist() == [0, 0]


def test_wrong_arguments_are_named():
    prompt = torch.zeros(2, dtype=torch.int64)
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"rewards: expected shape \[2\], got \[3\]"):
        group_zscore(torch.zeros(3), prompt, mask)
    with pytest.raises(TypeError, match=r"mask: expected torch.bool, got torch.int64"):
        group_zscore(torch.zeros(2), prompt, mask.long())
    with pytest.raises(ValueError, match="eps: expected a number > 0, got 0"):
        group_zscore(torch.zeros(2), prompt, mask, eps=0)
    with pytest.raises(ValueError, match="singleton: expected one of zero, reward"):
        group_mean(torch.zeros(2), prompt, mask, singleton="drop")
