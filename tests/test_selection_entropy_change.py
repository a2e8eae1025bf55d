"""The exact first-order change of the entropy that a token causes."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from sim import tabular
from tests import draws
from tests.selection import each_api, each_dtype, tensor

pytestmark = pytest.mark.isa


def entropy_of(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.softmax(-1)).sum(-1)


@each_api
@pytest.mark.parametrize("kind", ["flat", "uniform", "randn", "peaked", "masked", "shifted"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("vocab", [2, 33, 2053])
def test_entropy_change_against_finite_differences(
    vocab: int, temperature: float, kind: str, api: ModuleType, device: torch.device
) -> None:
    """Of the true entropy, in float64, to 1e-6 of the greatest change in the batch.

    The unit is a step on the scaled logits z/τ: catches a factor τ, a missing Σ pⱼSⱼ, a lost ρ.
    """
    logits = draws.draw_logits(kind, 24, vocab, torch.float64)
    tokens = draws.draw_tokens(logits)
    # A token that cannot be drawn has no step to compare with; its own test is below.
    kept = logits.gather(-1, tokens[:, None])[:, 0] > -torch.inf
    logits, tokens = logits[kept], tokens[kept]
    random = draws.generator("change", kind, vocab)
    advantages, noise = torch.randn(2, len(tokens), generator=random, dtype=torch.float64)
    ratio = (0.3 * noise).exp()

    stats = api.token_stats(
        logits.to(device), tokens.to(device), temperature=temperature, extras=True
    )
    got = api.entropy_change(stats, advantages.to(device), ratio=ratio.to(device))
    # For the closed form of a finite step, −inf is a number whose exponential is 0.
    scaled = torch.where(logits > -torch.inf, logits / temperature, -2000.0)
    policy = tabular.softmax_policy(scaled.numpy())
    one_hot = torch.zeros_like(logits).scatter_(-1, tokens[:, None], 1.0).numpy()
    step = (ratio * advantages).numpy()[:, None] * (one_hot - policy.probs)
    # Central differences of two widths; Richardson's combination leaves an error of order h⁴.
    near, far = (
        (tabular.entropy_change(policy, h * step) - tabular.entropy_change(policy, -h * step))
        / (2 * h)
        for h in (1e-4, 2e-4)
    )
    expected = torch.from_numpy((4 * near - far) / 3).to(device)
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
    without = api.entropy_change(stats, advantages.to(device))
    torch.testing.assert_close(without * ratio.to(device), got, rtol=1e-12, atol=1e-18)


@each_api
@each_dtype
def test_changes_average_to_theorem_1(
    api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """Σ π·ΔH over all tokens is −Cov_π(ln π, π A) for centred A (arXiv 2505.22617, Theorem 1)."""
    logits = draws.draw_logits("peaked", 1, 33, dtype).to(device) / 8
    every = torch.arange(33, device=device)
    p = logits.double()[0].softmax(-1)
    random = torch.Generator().manual_seed(0)
    q = torch.rand(33, generator=random, dtype=torch.float64).to(device)
    a = q - (p * q).sum()
    stats = api.token_stats(logits.expand(33, 33), every, extras=True)
    change = api.entropy_change(stats, a.to(dtype)).double()
    direction = p * a
    log_p = p.log()
    covariance = (p * log_p * direction).sum() - (p * log_p).sum() * (p * direction).sum()
    tolerance = 64 * torch.finfo(dtype).eps
    assert (p * change).sum().item() == pytest.approx(-covariance.item(), rel=tolerance)


@each_api
@each_dtype
def test_entropy_change_of_masked_and_impossible_tokens(
    api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """0 where the mask was False, whatever the advantage is there; S = 0 for p = 0, not NaN."""
    logits = draws.draw_logits("randn", 3, 7, dtype).to(device)
    logits[1, 4] = -math.inf
    tokens = torch.tensor([2, 4, 1], device=device)
    mask = torch.tensor([True, True, False], device=device)
    stats = api.token_stats(logits, tokens, mask=mask, extras=True)
    advantages = tensor([1.0, 2.0, math.nan], device, dtype)
    for ratio in (None, advantages):
        got = api.entropy_change(stats, advantages, ratio=ratio)
        assert got.dtype == dtype
        assert got[2] == 0
        assert got[:2].isfinite().all()
    log_p = logits[1].double().log_softmax(-1)
    p, entropy = log_p.exp(), entropy_of(logits[1].double())
    mean = torch.where(p > 0, p * p * (log_p + entropy), 0.0).sum().item()
    assert api.entropy_change(stats, advantages)[1].item() == pytest.approx(2 * mean, rel=1e-5)


@each_api
def test_entropy_change_of_certain_and_uniform_policies(
    api: ModuleType, device: torch.device
) -> None:
    """Both have no first-order change: catches p(ln p + H) that rounds to something."""
    flat = torch.zeros(1, 1024, device=device)
    certain = torch.full((1, 1024), -200.0, device=device)
    certain[0, 3] = 200.0
    token = torch.tensor([3], device=device)
    for logits in (flat, certain):
        stats = api.token_stats(logits, token, extras=True)
        change = api.entropy_change(stats, torch.ones(1, device=device))
        assert change.abs().item() < 1e-8
