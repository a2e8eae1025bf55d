from __future__ import annotations

import pytest
import torch

from entropy_ext.rl.losses import bcpg_nsa

F64 = torch.float64
LOGP = torch.tensor([[-1.0, -1.0, torch.nan], [-0.5, -1.0, -2.0]], dtype=F64)
REF = torch.tensor([[-1.5, -1.0, torch.nan], [-1.0, -1.0, -1.0]], dtype=F64)
MASK = torch.tensor([[True, True, False], [True, True, True]])
ADVANTAGES = torch.tensor([0.5, -0.5], dtype=F64)[:, None].expand(2, 3)
SOFTENED = torch.tensor([[False] * 3, [True, False, False]])


def _objective(logp, beta, tau):
    loss, metrics = bcpg_nsa(logp, REF, ADVANTAGES, MASK, SOFTENED, beta=beta, tau=tau)
    return -(loss.sum(-1) / MASK.sum(-1)).mean(), metrics


@pytest.mark.parametrize(
    ("beta", "tau", "expected"),
    [
        (1.0, 0.0, 0.0416667),
        (0.5, 0.0, 0.0208333),
        (-0.5, 0.0, -0.0208333),
        (0.5, 0.1, 0.015625),
        (0.5, 1e-3, 0.0207813),
    ],
)
def test_objective_by_hand(beta, tau, expected):
    """Two responses of two and three tokens, log-ratios 0.5 and −0.5."""
    objective, metrics = _objective(LOGP, beta, tau)
    assert objective.item() == pytest.approx(expected, abs=1e-7)
    assert metrics["behaviour"].item() == pytest.approx(0.5)
    assert (metrics["tokens"].item(), metrics["softened"].item()) == (5, 1)


@pytest.mark.parametrize(("beta", "first"), [(0.5, -1 / 30), (-0.5, 0.05)])
def test_gradient_by_hand(beta, first):
    """(1/(G·l))(β·A − τ·d): catches a squared term counted once per token."""
    logp = LOGP.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_objective(logp, beta, 0.1)[0], logp)
    expected = torch.tensor([[0.1125, 0.1125, 0], [first, -0.075, -0.075]], dtype=F64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_neutral_values_leave_plain_policy_gradient():
    logp = LOGP.clone().requires_grad_()
    loss, _ = bcpg_nsa(logp, REF, ADVANTAGES, MASK, SOFTENED, beta=1.0, tau=0.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert torch.equal(gradient, torch.where(MASK, -ADVANTAGES, 0.0))


def test_impossible_tokens_move_nothing_and_are_counted():
    logp = LOGP.clone()
    logp[1, 1] = -torch.inf
    logp.requires_grad_()
    loss, metrics = bcpg_nsa(logp, REF, ADVANTAGES, MASK, SOFTENED, tau=0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert gradient.isfinite().all()
    assert gradient[1, 1] == 0
    assert gradient[1, 2] != 0
    assert metrics["nonfinite_logp"] == 1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="beta: expected a number >= -1 and <= 1, got 2"):
        bcpg_nsa(LOGP, REF, ADVANTAGES, MASK, SOFTENED, beta=2)
    with pytest.raises(TypeError, match=r"softened: expected torch\.bool"):
        bcpg_nsa(LOGP, REF, ADVANTAGES, MASK, SOFTENED.double())
