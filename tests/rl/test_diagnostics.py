from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext import TokenStats, covariance, token_stats
from entropy_ext.recipes import Recipe
from entropy_ext.rl.diagnostics import EntropyMonitor, fit_entropy_performance, pass_at_k
from entropy_ext.rl.diagnostics.fit import _student_t
from entropy_ext.rl.losses import kl_cov
from tests.recipe_runs import make_logits, make_rollout


def test_fit_by_hand():
    fit = fit_entropy_performance([1.0, 0.5, 0.1], [0.2563436, 0.4702557, 0.5789658])
    assert fit.a == pytest.approx(0.2, abs=1e-6)
    assert fit.b == pytest.approx(0.8, abs=1e-6)
    assert fit.ceiling == pytest.approx(0.6, abs=1e-6)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.interval[0] == pytest.approx(0.6, abs=1e-5)
    assert fit.interval[1] == pytest.approx(0.6, abs=1e-5)
    tensors = [
        torch.tensor(x, dtype=torch.float64)
        for x in ([1.0, 0.5, 0.1], [0.2563436, 0.4702557, 0.5789658])
    ]
    assert fit_entropy_performance(*tensors) == fit


@pytest.mark.parametrize(
    ("confidence", "dof", "expected"),
    [
        (0.95, 1, 12.706205),
        (0.95, 2, 4.302653),
        (0.95, 3, 3.182446),
        (0.95, 10, 2.228139),
        (0.95, 31, 2.039513),
        (0.99, 5, 4.032143),
        (0.90, 30, 1.697261),
        (0.95, 1000, 1.962339),
    ],
)
def test_student_t_from_the_tables(confidence, dof, expected):
    assert _student_t(confidence, dof) == pytest.approx(expected, abs=1e-6)


def test_interval_covers_the_ceiling_as_often_as_it_says():
    """300 noisy runs of ten steps: catches a margin without the extrapolation to entropy 0."""
    generator = torch.Generator().manual_seed(1)
    entropy = torch.linspace(1.0, 0.3, 10, dtype=torch.float64)
    covered = 0
    for _ in range(300):
        noise = 0.02 * torch.randn(10, generator=generator, dtype=torch.float64)
        performance = 0.8 - 0.2 * entropy.exp() + noise
        low, high = fit_entropy_performance(
            entropy.tolist(), performance.tolist(), confidence=0.8
        ).interval
        covered += low < 0.6 < high
    assert 0.73 < covered / 300 < 0.87


def test_fit_says_what_it_cannot_fit():
    flat = fit_entropy_performance([1.0, 0.5, 0.2], [0.4, 0.4, 0.4])
    assert (flat.a, flat.ceiling, flat.r2) == pytest.approx((0.0, 0.4, 1.0))
    with pytest.raises(ValueError, match="entropy: expected at least 3 values, got 2"):
        fit_entropy_performance([1.0, 0.5], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"entropy: expected values that differ, got 0\.5 alone"):
        fit_entropy_performance([0.5] * 3, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="performance: expected 3 values, got 2"):
        fit_entropy_performance([1.0, 0.5, 0.2], [0.1, 0.2])
    with pytest.raises(ValueError, match="performance: expected finite values, got nan at 1"):
        fit_entropy_performance([1.0, 0.5, 0.2], [0.1, math.nan, 0.2])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_counts_subsets(k):
    """Of five samples with c right ones: the share of k-subsets that contain a right one."""
    for right in range(6):
        subsets = list(itertools.combinations(range(5), k))
        expected = sum(any(i < right for i in s) for s in subsets) / len(subsets)
        got = pass_at_k(torch.tensor([5]), torch.tensor([right]), k)
        assert got.item() == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_at_its_ends():
    """Large n without overflow of a binomial; fewer samples than k have no estimate."""
    assert pass_at_k(torch.tensor([1000]), torch.tensor([1]), 1000).item() == 1.0
    assert pass_at_k(torch.tensor([1000]), torch.tensor([0]), 500).item() == 0.0
    assert pass_at_k(torch.tensor([4096]), torch.tensor([1]), 64).item() == pytest.approx(1 / 64)
    assert pass_at_k(torch.tensor([3]), torch.tensor([1]), 4).isnan()
    with pytest.raises(ValueError, match="k: expected a number >= 1, got 0"):
        pass_at_k(torch.tensor([3]), torch.tensor([1]), 0)


def _example(**changes):
    rollout, logits = make_rollout(**changes), make_logits()
    stats = token_stats(logits, rollout.tokens, mask=rollout.mask, extras=True)
    return stats, rollout, Recipe().targets(rollout).advantages


def test_monitor_against_the_definitions():
    stats, rollout, advantages = _example()
    metrics = {
        "tokens": torch.tensor(16),
        "clip_low": torch.tensor(2),
        "clip_high": torch.tensor(4),
    }
    monitor = EntropyMonitor(k=2, top_fraction=0.2)
    seen = monitor.floats(monitor.update(stats, rollout, advantages, metrics))
    entropy, gain = stats.entropy[rollout.mask], advantages[rollout.mask]
    logp = stats.logp[rollout.mask]
    cov = covariance(logp, gain, None)
    expected = {
        "entropy/mean": entropy.mean(),
        **{f"entropy/p{q}": entropy.quantile(q / 100) for q in (20, 50, 80)},
        "entropy/positive": entropy[gain > 0].mean(),
        "entropy/negative": entropy[gain < 0].mean(),
        "entropy_change/measured": 0.0,
        "covariance/mean": cov.mean(),
        "covariance/top": cov.topk(3).values.mean(),
        "clip/low": 2 / 16,
        "clip/high": 4 / 16,
        # Prompts 0, 1 and 2 with 2 of 3, 1 of 2 and 0 of 1 right; the third is too small for k = 2.
        "pass/1": (2 / 3 + 1 / 2 + 0) / 3,
        "pass/k": (1 + 1) / 2,
        "groups/zero_advantage": 1 / 3,
    }
    for name, other in (("kl/old", rollout.old_logp), ("kl/reference", rollout.ref_logp)):
        difference = other[rollout.mask] - logp
        expected[name] = (difference.exp() - 1 - difference).mean()
    p = make_logits().softmax(-1)
    centred = p.log() + stats.entropy[..., None]
    one = torch.nn.functional.one_hot(rollout.tokens, p.shape[-1])
    slope = -(p * centred * advantages[..., None] * (one - p)).sum(-1)
    expected["entropy_change/predicted"] = slope[rollout.mask].mean()
    expected["ceiling"] = expected["pass/1"]
    assert set(seen) == set(expected)
    for name, value in expected.items():
        assert seen[name] == pytest.approx(float(value), abs=1e-9), name


def test_monitor_measures_change_and_fits_the_ceiling():
    """Three steps: the ceiling is that of the fit to their entropies and accuracies."""
    monitor = EntropyMonitor()
    entropies, rewards, seen = [1.0, 0.5, 0.1], [1, 3, 4], {}
    changes = []
    for entropy, right in zip(entropies, rewards, strict=True):
        correct = torch.arange(6) < right
        stats, rollout, advantages = _example(
            correct=correct, prompt=torch.zeros(6, dtype=torch.int64)
        )
        stats = stats._replace(entropy=torch.full_like(stats.entropy, entropy))
        seen = monitor.floats(monitor.update(stats, rollout, advantages))
        changes.append(seen["entropy_change/measured"])
    assert changes == pytest.approx([0.0, -0.5, -0.4])
    fit = fit_entropy_performance(entropies, [r / 6 for r in rewards])
    assert seen["ceiling"] == pytest.approx(fit.ceiling, abs=1e-9)


def test_monitor_names_only_what_it_knows():
    stats, rollout, advantages = _example(ref_logp=None, correct=None)
    plain = TokenStats(*stats[:3])
    seen = EntropyMonitor().update(plain, rollout, advantages)
    absent = {"kl/reference", "pass/1", "pass/k", "ceiling", "clip/low", "entropy_change/predicted"}
    assert not absent & set(seen)
    assert {"entropy/p50", "covariance/top", "kl/old"} < set(seen)


def test_monitor_repeats_the_last_mean_where_there_is_none():
    """No token, no positive token, no group of k: the last number again, never NaN."""
    monitor = EntropyMonitor(k=2)
    stats, rollout, advantages = _example()
    first = monitor.floats(monitor.update(stats, rollout, advantages))
    nothing = rollout.replace(mask=torch.zeros_like(rollout.mask), prompt=torch.arange(6))
    zeros = torch.zeros_like(advantages)
    second = monitor.floats(monitor.update(stats, nothing, zeros))
    for name in ("entropy/mean", "entropy/p80", "entropy/positive", "kl/old", "pass/k"):
        assert second[name] == first[name], name
    empty = rollout.rows(slice(0, 0))
    rows = TokenStats(*(x[:0] for x in stats if x is not None))
    fresh = EntropyMonitor().update(rows, empty, zeros[:0])
    assert all(value == 0 for value in EntropyMonitor.floats(fresh).values())


def test_monitor_of_responses_without_a_token():
    """[B, 0]: zeros, not an error of an empty dimension."""
    stats, rollout, advantages = _example()
    per_token = {k: x for k, x in vars(rollout).items() if getattr(x, "ndim", 1) == 2}
    cut = {name: values[:, :0] for name, values in per_token.items()}
    rows = TokenStats(*(x[:, :0] for x in stats[:3]))
    seen = EntropyMonitor().update(rows, rollout.replace(**cut), advantages[:, :0])
    assert EntropyMonitor.floats(seen)["groups/zero_advantage"] == 1


def test_monitor_of_a_loss_that_does_not_clip():
    """The metrics of KL-Cov count no clipped tokens: there is then no share of them."""
    stats, rollout, advantages = _example()
    selected = torch.zeros_like(rollout.mask)
    loss = kl_cov(stats.logp, rollout.old_logp, advantages, rollout.mask, selected)
    seen = EntropyMonitor().update(stats, rollout, advantages, loss.metrics)
    assert "kl/old" in seen
    assert "clip/low" not in seen


def test_monitor_s_k_counts_responses():
    with pytest.raises(TypeError, match=r"k: expected an integer, got 1\.5"):
        EntropyMonitor(k=1.5)


def test_restored_monitor_continues_alike():
    first, second = EntropyMonitor(), EntropyMonitor()
    stats, rollout, advantages = _example()
    later = stats._replace(entropy=stats.entropy * 0.5)
    first.update(stats, rollout, advantages)
    second.load_state_dict(first.state_dict())
    expected = first.floats(first.update(later, rollout, advantages))
    assert second.floats(second.update(later, rollout, advantages)) == expected


def test_monitor_never_asks_the_device():
    stats, rollout, advantages = _example()
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:

        def faked(value):
            return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

        fields = {
            name: faked(value)
            for name, value in vars(rollout).items()
            if isinstance(value, torch.Tensor)
        }
        monitor = EntropyMonitor(k=2)
        for _ in range(2):
            seen = monitor.update(
                TokenStats(*map(faked, stats)),
                rollout.replace(**fields),
                faked(advantages),
            )
        assert all(value.ndim == 0 for value in seen.values())
