"""SIREN's entropy: that of the nucleus alone, which the kept sets of `token_stats` give."""

from __future__ import annotations

import pytest
import torch

from entropy_ext import Support, reference, token_stats


@pytest.mark.parametrize("stats_of", [token_stats, reference.token_stats])
@pytest.mark.parametrize("token", [0, 1])
def test_by_hand(stats_of, token):
    """p = (.5, .3, .15, .05), nucleus of at most .8: q = (.625, .375) and H = .66156, whose
    gradient −qᵢ(ln qᵢ + H) is 0 on the tokens left out. Catches p for q, and the whole entropy."""
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    logits = (p.log() + 3.0).requires_grad_()
    support = Support.from_lists([[0, 1]])
    entropy = stats_of(logits, torch.tensor([token]), support=support).support_entropy
    assert entropy.item() == pytest.approx(0.66156, abs=5e-6)
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    q = torch.tensor([0.625, 0.375], dtype=torch.float64)
    expected = [*(-q * (q.log() + entropy.detach())).tolist(), 0, 0]
    assert gradient[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert abs(expected[0]) > 0.1


def test_one_sure_token_is_its_own_nucleus():
    """The first token is always in it: entropy 0 and no gradient."""
    logits = torch.tensor([[9.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    stats = token_stats(logits, torch.tensor([0]), support=Support.from_lists([[0]]))
    assert stats.support_entropy.item() == 0
    assert torch.autograd.grad(stats.support_entropy.sum(), logits)[0].abs().max() == 0
