from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.advantages import group_zscore, pass_at_k_advantage


def _advantages(rewards, k, prompt=None, **options):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    prompt = torch.zeros(len(rewards), dtype=torch.int64) if prompt is None else prompt
    mask = torch.ones(len(rewards), 1, dtype=torch.bool)
    return pass_at_k_advantage(rewards, prompt, mask, k=k, **options)[:, 0].tolist()


def _enumerated(rewards, k, normalize):
    """Every subset of one group, in plain Python."""
    if len(rewards) <= k:
        return [0.0] * len(rewards)
    best = {s: max(rewards[i] for i in s) for s in itertools.combinations(range(len(rewards)), k)}
    mean = math.fsum(best.values()) / len(best)
    spread = math.sqrt(math.fsum((m - mean) ** 2 for m in best.values()) / len(best))
    scores = []
    for i in range(len(rewards)):
        own = [m for s, m in best.items() if i in s]
        scores.append((math.fsum(own) / len(own) - mean) / (spread + 1e-6 if normalize else 1))
    return scores


@settings(deadline=None, max_examples=80)
@given(
    rewards=st.lists(
        st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-3, 3)), min_size=1, max_size=8
    ),
    k=st.integers(1, 5),
    normalize=st.booleans(),
)
def test_agrees_with_every_subset(rewards, k, normalize):
    """Ties, negative rewards, groups smaller than k; catches a binomial one off on either side."""
    # Rewards so close that the deviation over subsets is of rounding alone have no digits.
    rewards = [round(r, 3) for r in rewards]
    got = _advantages(rewards, k, normalize=normalize)
    assert got == pytest.approx(_enumerated(rewards, k, normalize), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "right", "k"), [(8, 1, 4), (8, 3, 2), (16, 2, 8), (16, 15, 1), (5, 2, 4)]
)
def test_pass_at_k_of_right_and_wrong(n, right, k):
    """The paper's closed form: R = 1 − C(wrong, k)/C(n, k), σ² = R(1 − R); A of a right answer
    (1 − R)/σ, of a wrong one (1 − R − C(wrong − 1, k − 1)/C(n − 1, k − 1))/σ."""
    wrong = n - right
    mean = 1 - math.comb(wrong, k) / math.comb(n, k)
    spread = math.sqrt(mean * (1 - mean)) + 1e-6
    missed = math.comb(wrong - 1, k - 1) / math.comb(n - 1, k - 1)
    got = _advantages([1.0] * right + [0.0] * wrong, k)
    if wrong < k:
        assert got == [0.0] * n
        return
    expected = [(1 - mean) / spread] * right + [(1 - mean - missed) / spread] * wrong
    assert got == pytest.approx(expected, rel=1e-9)


def test_one_sample_is_the_z_score():
    rewards = torch.tensor([1.0, 0.0, 0.25, -1.0, 0.5, 0.5], dtype=torch.float64)
    prompt, mask = torch.tensor([0, 1, 0, 1, 0, 1]), torch.ones(6, 2, dtype=torch.bool)
    expected = group_zscore(rewards, prompt, mask, unbiased=False)
    got = pass_at_k_advantage(rewards, prompt, mask, k=1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_groups_do_not_mix():
    """Scattered members, and a large reward next door: each group as if alone."""
    first, second = [1.0, 0.0, 0.0, 0.5], [100.0, -7.0, 3.0]
    rewards = [first[0], second[0], first[1], second[1], first[2], second[2], first[3]]
    prompt = torch.tensor([9, 2, 9, 2, 9, 2, 9])
    got = _advantages(rewards, 2, prompt)
    assert got[::2] == pytest.approx(_enumerated(first, 2, True))
    assert got[1::2] == pytest.approx(_enumerated(second, 2, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.1, -1.0, 7.3])
def test_no_signal_is_exactly_zero(value, dtype):
    """All equal, a group of at most k, and a right answer in every subset: no residue over eps."""
    mask = torch.ones(6, 3, dtype=torch.bool)
    prompt = torch.zeros(6, dtype=torch.int64)
    equal = torch.full((6,), value, dtype=dtype)
    assert pass_at_k_advantage(equal, prompt, mask, k=3).abs().max() == 0
    spread = torch.arange(6).to(dtype)
    assert pass_at_k_advantage(spread, prompt, mask, k=6).abs().max() == 0
    assert pass_at_k_advantage(spread, torch.arange(6), mask, k=1).abs().max() == 0
    nearly = torch.where(torch.arange(6) < 2, 0.0, value).abs().to(dtype)
    assert pass_at_k_advantage(nearly, prompt, mask, k=3).abs().max() == 0
    assert pass_at_k_advantage(nearly, prompt, mask, k=2).abs().max() > 0


def test_undivided_it_is_the_unbiased_gradient():
    """Σ over all draws of p·Σ A·∇ln p, undivided, equals (1 − k/n)·(n/k)·∇E[best of k], exactly."""
    n, k = 3, 2
    z = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([0.0, 1.0, 0.4], dtype=torch.float64)
    logp = z.log_softmax(-1)
    best = sum(
        logp[list(draw)].sum().exp() * reward[list(draw)].max()
        for draw in itertools.product(range(3), repeat=k)
    )
    (truth,) = torch.autograd.grad(best, z, retain_graph=True)
    total = torch.zeros_like(z)
    mask, prompt = torch.ones(n, 1, dtype=torch.bool), torch.zeros(n, dtype=torch.int64)
    for draw in itertools.product(range(3), repeat=n):
        own = logp[list(draw)]
        gain = pass_at_k_advantage(reward[list(draw)], prompt, mask, k=k, normalize=False)[:, 0]
        (slope,) = torch.autograd.grad((own * gain).sum(), z, retain_graph=True)
        total = total + own.sum().exp().detach() * slope
    torch.testing.assert_close(total, (1 - k / n) * n / k * truth, rtol=0, atol=1e-12)


def test_padding_gradient_and_host():
    rewards = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    got = pass_at_k_advantage(rewards, torch.zeros(3, dtype=torch.int64), mask, k=2)
    assert not got.requires_grad
    assert got[~mask].abs().max() == 0
    assert got[0, 0] > 0 > got[1, 1]
    nothing = torch.zeros(0, dtype=torch.int64)
    assert pass_at_k_advantage(rewards[:0], nothing, mask[:0], k=2).shape == (0, 2)
    with FakeTensorMode():
        fake = torch.empty(4, dtype=torch.int64)
        pass_at_k_advantage(torch.empty(4), fake, torch.empty(4, 2, dtype=torch.bool), k=2)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="k: expected a number >= 1, got 0"):
        _advantages([1.0, 0.0], 0)
    with pytest.raises(TypeError, match=r"k: expected an integer, got 1\.5"):
        _advantages([1.0, 0.0], 1.5)
    with pytest.raises(ValueError, match="eps: expected a finite number > 0, got 0"):
        _advantages([1.0, 0.0], 1, eps=0.0)
