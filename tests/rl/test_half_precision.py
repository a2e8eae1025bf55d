"""Rewards and values of half precision: the statistics are those of the same numbers in float64."""

from __future__ import annotations

import pytest
import torch

from entropy_ext.rl import Groups
from entropy_ext.rl import advantages as adv
from entropy_ext.rl.rewards import truncated_reward
from entropy_ext.rl.statistics import masked_mean

B, T = 300, 3
PROMPT = torch.arange(B) % 2
MASK = torch.arange(T) < (torch.arange(B) % T + 1)[:, None]
FUNCTIONS = {
    "group_mean": adv.group_mean,
    "group_zscore": adv.group_zscore,
    "leave_one_out": adv.leave_one_out,
    "opo": adv.opo,
    "gpg": adv.gpg,
    "batch_whiten": lambda r, p, m: adv.batch_whiten(r[:, None].expand_as(m), m),
    "unlikeliness_reward": lambda r, p, m: adv.unlikeliness_reward(r, -r[:, None] * m, p, m),
    "gae": lambda r, p, m: adv.gae(
        adv.terminal_rewards(r, m), r[:, None].expand_as(m).contiguous(), m, gamma=0.9
    ),
    "truncated_reward": lambda r, p, m: truncated_reward(r, p == 0, coef=0.3),
    "masked_mean": lambda r, p, m: masked_mean(r[:, None].expand_as(m), m),
    "sum": lambda r, p, m: Groups(p).sum(r),
    "centred": lambda r, p, m: Groups(p).centred(r),
    "std": lambda r, p, m: Groups(p).std(r),
    "logsumexp": lambda r, p, m: Groups(p).logsumexp(r),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_keeps_its_digits(name, dtype):
    """Catches means, counts (257 is no bfloat16) and differences that are rounded to a half."""
    generator = torch.Generator().manual_seed(2)
    rewards = (1 + torch.rand(B, generator=generator, dtype=torch.float64)).to(dtype)
    got = FUNCTIONS[name](rewards, PROMPT, MASK)
    assert got.dtype == torch.float32
    expected = FUNCTIONS[name](rewards.double(), PROMPT, MASK)
    torch.testing.assert_close(got.double(), expected, rtol=2e-5, atol=2e-5)
