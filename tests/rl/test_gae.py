from __future__ import annotations

import pytest
import torch

from entropy_ext.rl.advantages import (
    batch_whiten,
    decoupled_gae,
    gae,
    length_adaptive_decay,
    terminal_rewards,
)


def _by_loop(rewards, values, mask, gamma, decays):
    """The recurrence as printed, one token at a time from the last."""
    advantages = torch.zeros_like(values)
    for i in range(len(mask)):
        ahead_value, ahead = 0.0, 0.0
        for t in reversed(mask[i].nonzero().flatten().tolist()):
            error = rewards[i, t].item() + gamma * ahead_value - values[i, t].item()
            ahead = error + gamma * decays[i] * ahead
            ahead_value = values[i, t].item()
            advantages[i, t] = ahead
    return advantages


@pytest.mark.parametrize(
    ("decay", "expected"),
    [(1.0, [0.8, 0.4, 0.6]), (0.5, [0.45, 0.10, 0.60]), (0.0, [0.4, -0.2, 0.6])],
)
def test_three_tokens_by_hand(decay, expected):
    rewards = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    values = torch.tensor([[0.2, 0.6, 0.4]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages = gae(rewards, values, mask, decay=decay)
    torch.testing.assert_close(advantages, torch.tensor([expected], dtype=torch.float64))
    if decay == 1:
        assert (advantages + values).tolist() == [[1.0, 1.0, 1.0]]


def test_decoupled_by_hand():
    """Critic 1 and policy ½: returns 1 at every token, whatever the policy's λ made of it."""
    rewards = torch.tensor([[0.0, 0.0, 1.0, torch.nan]], dtype=torch.float64)
    values = torch.tensor([[0.2, 0.6, 0.4, torch.nan]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    advantages, returns = decoupled_gae(rewards, values, mask, decay=0.5)
    expected = torch.tensor([[0.45, 0.10, 0.60, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, torch.tensor([[1.0, 1.0, 1.0, 0.0]]).double())
    alike, coupled = decoupled_gae(rewards, values, mask, decay=0.5, critic_decay=0.5)
    torch.testing.assert_close(coupled[mask], (alike + values)[mask])


@pytest.mark.parametrize("width", [1, 2, 5, 8, 33])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_agrees_with_the_recurrence(width, gamma):
    """Widths around powers of two, holes in the mask, a λ per response, an empty response."""
    generator = torch.Generator().manual_seed(width)
    rewards, values = torch.randn(2, 5, width, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, width, generator=generator) < 0.7
    mask[0], mask[1] = True, False
    decays = torch.tensor([0.95, 0.5, 0.0, 1.0, 0.3], dtype=torch.float64)
    expected = _by_loop(rewards, values, mask, gamma, decays.tolist())
    spoilt = torch.where(mask, values, torch.nan)
    advantages = gae(torch.where(mask, rewards, torch.nan), spoilt, mask, gamma=gamma, decay=decays)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)


def test_length_adaptive_decay_by_hand():
    """Up to 20 tokens the formula is 0 or negative, where a power of it would alternate in sign."""
    lengths = torch.tensor([0, 10, 20, 21, 40, 100, 400, 1000, 20000])
    expected = torch.tensor([0, 0, 0, 1 / 21, 0.5, 0.8, 0.95, 0.98, 0.999], dtype=torch.float64)
    decay = length_adaptive_decay(lengths, alpha=0.05, dtype=torch.float64)
    torch.testing.assert_close(decay, expected, rtol=0, atol=1e-12)


def test_terminal_reward_sits_on_the_last_token():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 1]], dtype=torch.bool)
    rewards = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = [[0, 1, 0], [0, 0, 2], [0, 0, 0], [0, 0, 4]]
    assert terminal_rewards(rewards, mask).tolist() == expected


def test_whitening_weighs_tokens():
    """Group [1, 0] of lengths 1 and 3, and an all-right response of 2: mean −1/6, not 0."""
    mask = torch.arange(3) < torch.tensor([1, 3, 2])[:, None]
    scores = torch.tensor([0.5, -0.5, 0.0], dtype=torch.float64)
    advantages = torch.where(mask, scores[:, None], torch.nan)
    whitened = batch_whiten(advantages, mask)
    expected = torch.tensor([1.7888544, -0.8944272, 0.4472136], dtype=torch.float64)
    expected = torch.where(mask, expected[:, None], 0.0)
    torch.testing.assert_close(whitened, expected, rtol=0, atol=1e-7)
    unbiased = batch_whiten(advantages, mask, unbiased=True)
    torch.testing.assert_close(unbiased, expected * (5 / 6) ** 0.5, rtol=0, atol=1e-7)


def test_whitening_of_equal_lengths_keeps_zero():
    """Groups [1, 0] and [1, 1], all of two tokens."""
    mask = torch.ones(4, 2, dtype=torch.bool)
    advantages = torch.tensor([0.5, -0.5, 0.0, 0.0], dtype=torch.float64)[:, None].expand(4, 2)
    expected = torch.tensor([2**0.5, -(2**0.5), 0, 0], dtype=torch.float64)[:, None].expand(4, 2)
    torch.testing.assert_close(batch_whiten(advantages, mask), expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6])
@pytest.mark.parametrize("unbiased", [False, True])
def test_whitening_without_variance_gives_exactly_zero(value, unbiased):
    """Catches the rounding residue of the mean, divided by √1e-8."""
    one = torch.arange(21).view(3, 7) == 9
    for mask in (torch.ones_like(one), torch.zeros_like(one), one):
        whitened = batch_whiten(torch.full((3, 7), value), mask, unbiased=unbiased)
        assert whitened.abs().max() == 0


def test_wrong_arguments_are_named():
    rewards, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"decay: expected shape \[2\], got \[3\]"):
        gae(rewards, rewards, mask, decay=torch.zeros(3))
    with pytest.raises(ValueError, match="gamma: expected a number >= 0 and <= 1"):
        gae(rewards, rewards, mask, gamma=1.5)
    with pytest.raises(ValueError, match=r"rewards: expected shape \[2, 3\], got \[2\]"):
        gae(torch.zeros(2), rewards, mask)
    with pytest.raises(ValueError, match="alpha: expected a number > 0, got 0"):
        length_adaptive_decay(torch.ones(2), alpha=0)
    with pytest.raises(ValueError, match="eps: expected a number > 0, got 0"):
        batch_whiten(rewards, mask, eps=0)
