from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.losses import sent, sent_penalty
from tests.loss_runs import check_edges, row, run

LOGP = [-0.1, -2.0, -0.5, -1.0, -0.05]
OLD = [-0.2, -1.8, -0.5, -1.0, -0.1]
ADVANTAGES = [1.0, 1.0, -1.0, -1.0, 1.0]
ENTROPY = [0.1, 0.2, 0.3, 0.9, 0.05]


def _penalty(logp=LOGP, entropy=ENTROPY, advantages=ADVANTAGES, mask=None, **options):
    mask = torch.tensor([mask or [1] * len(logp)], dtype=torch.bool)
    return sent_penalty(row(logp), row(entropy), row(advantages), mask, **options)


def test_case():
    """Low {4, 0, 1, 2}, covariances .3063, .2812, −.6687, −.2438: top is 4, bottom is 1."""
    penalty = _penalty()
    assert penalty.tolist() == [[0.0, 0.5, 0.0, 0.0, 2.0]]
    got = run(sent, LOGP, ADVANTAGES, old=OLD, penalty=penalty)
    assert got.loss == pytest.approx([-1.1052, -0.8087, 1.0, 1.0, -1.0413], abs=5e-5)
    assert sum(got.loss) / 5 == pytest.approx(-0.1910, abs=5e-5)
    # −Aρ and coef·penalty·sign: down for token 1, up for token 4.
    slopes = [-math.exp(0.1), -math.exp(-0.2) - 0.05, 1.0, 1.0, -math.exp(0.05) + 0.2]
    assert got.gradient == pytest.approx(slopes)
    assert got.metrics["penalised"] == 2


def test_paper_s_text_holds_all_low_tokens():
    assert _penalty(rest=0.3).tolist() == [[0.3, 0.5, 0.3, 0.0, 2.0]]


def test_bottom_wins_where_the_sets_meet():
    """One low token is both of greatest and of least covariance."""
    assert _penalty([-1.0], [0.5], [1.0]).tolist() == [[0.5]]
    assert _penalty(low_fraction=0.2).tolist() == [[0, 0, 0, 0, 0.5]]
    assert _penalty(mask=[0] * 5).tolist() == [[0.0] * 5]


def test_without_penalty_or_ratio_it_is_policy_gradient():
    unheld = run(sent, LOGP, ADVANTAGES, old=OLD, penalty=torch.zeros(1, 5), coef=1.0)
    ratio = [math.exp(new - old) for new, old in zip(LOGP, OLD, strict=True)]
    assert unheld.gradient == pytest.approx(
        [-a * r for a, r in zip(ADVANTAGES, ratio, strict=True)]
    )
    on_policy = run(sent, LOGP, ADVANTAGES, penalty=torch.full((1, 5), 2.0), coef=1.0)
    assert on_policy.gradient == pytest.approx([-a for a in ADVANTAGES])


def test_edges():
    check_edges(sent, penalty=torch.tensor([[1.0, 0.5, math.nan]]))
    penalty = _penalty([math.nan, -1.0, -math.inf], [0.1, 0.2, math.nan], [1.0, 1.0, math.nan])
    assert penalty.tolist() == [[0, 0.5, 0]]
    with FakeTensorMode():
        x = torch.empty(2, 3)
        sent_penalty(x, x, x, torch.empty(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="top: expected a number >= 0, got -1"):
        _penalty(top=-1.0)
