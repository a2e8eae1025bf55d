from __future__ import annotations

import pytest
import torch

from entropy_ext import clip_cov as select_clip_cov
from entropy_ext import kl_cov as select_kl_cov
from entropy_ext.rl.losses import clip_cov, kl_cov, ppo_clip
from entropy_ext.rl.statistics import token_covariance, token_ids

F64 = torch.float64
ALL = torch.ones(1, 4, dtype=torch.bool)
OLD = torch.tensor([[-0.1, -1.0, -2.0, -0.5]], dtype=F64)
NEW = torch.tensor([[-0.05, -1.2, -1.5, -0.5]], dtype=F64)
ADVANTAGES = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=F64)


def test_covariance_by_hand():
    cov = token_covariance(NEW, ADVANTAGES, ALL)
    expected = torch.tensor([[0.7625, -0.3875, 0.6875, -0.3125]], dtype=F64)
    torch.testing.assert_close(cov, expected)
    logp = torch.tensor([[-0.05, -4, -0.1, -6, -0.2]], dtype=F64)
    advantages = torch.tensor([[2.0, -0.5, -0.5, -0.5, -0.5]], dtype=F64)
    cov = token_covariance(logp, advantages, torch.ones(1, 5, dtype=torch.bool))
    expected = torch.tensor([[4.04, 0.965, -0.985, 1.965, -0.935]], dtype=F64)
    torch.testing.assert_close(cov, expected)


def test_kl_cov_by_hand():
    """The token of greatest covariance is the first; the penalty adds 0.05 to it."""
    selected = select_kl_cov(token_covariance(NEW, ADVANTAGES, ALL), ALL, fraction=0.25)
    assert selected.tolist() == [[True, False, False, False]]
    base, _ = kl_cov(NEW, OLD, ADVANTAGES, ALL, torch.zeros_like(ALL))
    assert base.mean().item() == pytest.approx(0.1946799, abs=1e-7)
    held, metrics = kl_cov(NEW, OLD, ADVANTAGES, ALL, selected)
    assert held.mean().item() == pytest.approx(0.2071799, abs=1e-7)
    torch.testing.assert_close(held - base, torch.tensor([[0.05, 0, 0, 0]], dtype=F64))
    assert metrics["cov_held"].item() == 1
    assert metrics["cov_penalty"].item() == pytest.approx(0.05)
    logp = NEW.clone().requires_grad_()
    (slope,) = torch.autograd.grad(kl_cov(logp, OLD, ADVANTAGES, ALL, selected).loss.mean(), logp)
    # −Aρ/4, and the constant slope of |d|: +1/4 where the token has risen.
    expected = (-ADVANTAGES * (NEW - OLD).exp() + selected) / 4
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize(
    ("penalty", "value", "slope"),
    [("abs", 0.5, 1.0), ("k2", 0.125, 0.5), ("k3", 0.1487213, 0.6487213)],
)
def test_penalties_by_hand(penalty, value, slope):
    """At d = 0.5, advantage 0; catches e⁻ᵈ − 1 + d, the divergence the other way round."""
    logp = torch.tensor([[0.5]], dtype=F64, requires_grad=True)
    zero, one = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=torch.bool)
    loss, _ = kl_cov(logp, zero, zero, one, one, coef=2.0, penalty=penalty)
    assert loss.item() == pytest.approx(2 * value, abs=1e-7)
    assert torch.autograd.grad(loss.sum(), logp)[0].item() == pytest.approx(2 * slope, abs=1e-7)


@pytest.mark.parametrize("penalty", ["abs", "k2", "k3"])
def test_on_policy_kl_cov_is_plain_policy_gradient(penalty):
    logp = OLD.clone().requires_grad_()
    selected = torch.tensor([[True, False, True, False]])
    loss, _ = kl_cov(logp, OLD, ADVANTAGES, ALL, selected, coef=7.0, penalty=penalty)
    assert torch.equal(loss.detach(), -ADVANTAGES)
    assert torch.equal(torch.autograd.grad(loss.sum(), logp)[0], -ADVANTAGES)


def test_kl_cov_clips_nothing():
    """A ratio of e² on a positive advantage keeps its gradient."""
    logp = torch.tensor([[2.0]], dtype=F64, requires_grad=True)
    zero, one = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=torch.bool)
    loss, _ = kl_cov(logp, zero, zero + 1, one, ~one)
    assert torch.autograd.grad(loss.sum(), logp)[0].item() == pytest.approx(-(torch.e**2))


def test_clip_cov_drops_the_selected_and_counts_them():
    selected = torch.tensor([[True, False, False, False]])
    logp = NEW.clone().requires_grad_()
    loss, metrics = clip_cov(logp, OLD, ADVANTAGES, ALL, selected)
    whole, _ = ppo_clip(NEW, OLD, ADVANTAGES, ALL, clip_low=1.0, clip_high=1.0)
    assert torch.equal(loss.detach(), torch.where(selected, 0.0, whole))
    gradient = torch.autograd.grad(loss.mean(), logp)[0]
    expected = torch.where(selected, 0.0, -ADVANTAGES * (NEW - OLD).exp()) / 4
    torch.testing.assert_close(gradient, expected)
    assert metrics["cov_clipped"].item() == 1
    assert metrics["tokens"].item() == 4


def test_clip_cov_s_ratio_is_free_up_to_two():
    ratio = torch.tensor([[1.9, 2.5, 0.01, 3.0]], dtype=F64)
    loss, metrics = clip_cov(
        ratio.log(), torch.zeros_like(ratio), ADVANTAGES, ALL, torch.zeros_like(ALL)
    )
    expected = torch.tensor([[-1.9, -2.0, 0.01, 3.0]], dtype=F64)
    torch.testing.assert_close(loss, expected)
    assert (metrics["clip_high"].item(), metrics["clip_low"].item()) == (1, 0)


def test_clip_cov_draws_either_candidate():
    """Tokens 0 and 3 lie in (1, 5): each is drawn about half the time, one at a time."""
    logp = torch.tensor([[-0.05, -4, -0.1, -6, -0.2]], dtype=F64)
    advantages = torch.tensor([[2.0, -0.5, -0.5, -0.5, -0.5]], dtype=F64)
    mask = torch.ones(1, 5, dtype=torch.bool)
    cov = token_covariance(logp, advantages, mask)
    draws = torch.cat([select_clip_cov(cov, mask, seed=seed) for seed in range(400)])
    assert (draws.sum(-1) == 1).all()
    counts = draws.sum(0).tolist()
    assert counts[1] == counts[2] == counts[4] == 0
    assert 160 < counts[0] < 240
    assert select_kl_cov(cov, mask).tolist() == [[True, False, False, False, False]]


@pytest.mark.parametrize(
    ("select", "tokens", "expected"),
    [
        ("clip", 9999, 1),
        ("clip", 10000, 2),
        ("kl", 100, 1),
        ("kl", 999, 1),
        ("kl", 1000, 2),
        ("kl", 1500, 3),
    ],
)
def test_how_many_are_selected(select, tokens, expected):
    """Rounded down but at least one, of all tokens and not of the candidates."""
    cov = torch.full((1, tokens), 2.0)
    mask = torch.ones(1, tokens, dtype=torch.bool)
    if select == "clip":
        chosen = select_clip_cov(cov, mask, fraction=2e-4, seed=1)
    else:
        chosen = select_kl_cov(cov, mask, fraction=2e-3)
    assert chosen.sum().item() == expected


def test_impossible_tokens_move_nothing_and_are_counted():
    logp = NEW.clone()
    logp[0, 1] = -torch.inf
    logp.requires_grad_()
    loss, metrics = kl_cov(logp, OLD, ADVANTAGES, ALL, ALL)
    gradient = torch.autograd.grad(loss.sum(), logp)[0]
    assert gradient.isfinite().all()
    assert gradient[0, 1] == 0
    assert metrics["nonfinite_logp"] == 1


def test_token_ids_are_positions():
    assert token_ids(torch.zeros(2, 3, dtype=torch.bool)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="penalty: expected one of abs, k2, k3, got 'k1'"):
        kl_cov(NEW, OLD, ADVANTAGES, ALL, ALL, penalty="k1")
    with pytest.raises(TypeError, match=r"selected: expected torch\.bool"):
        clip_cov(NEW, OLD, ADVANTAGES, ALL, ALL.double())
    with pytest.raises(ValueError, match="coef: expected a number >= 0"):
        kl_cov(NEW, OLD, ADVANTAGES, ALL, ALL, coef=-1.0)
