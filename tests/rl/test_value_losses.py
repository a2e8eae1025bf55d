from __future__ import annotations

import pytest
import torch

from entropy_ext.rl.losses import positive_nll, value_loss

MASK = torch.tensor([[True, True], [True, False]])
LOGP = torch.tensor([[-1.0, -2.0], [-3.0, torch.nan]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("right", "mean"), [([1, 0], 1.5), ([1, 1], 2.0), ([0, 0], 0.0), ([0, 1], 3.0)]
)
def test_positive_nll_by_hand(right, mean):
    """The paper's mean is over the positive tokens; no positive gives 0, not 0/0."""
    logp = LOGP.clone().requires_grad_()
    loss, metrics = positive_nll(logp, torch.tensor(right, dtype=torch.bool), MASK)
    total = loss.sum() / metrics["positive_tokens"].clamp(min=1)
    assert total.item() == pytest.approx(mean)
    loss.sum().backward()
    expected = torch.where(MASK & torch.tensor(right, dtype=torch.bool)[:, None], -1.0, 0.0)
    assert torch.equal(logp.grad, expected.double())


def test_positive_nll_of_an_impossible_token_moves_nothing():
    logp = torch.tensor([[-torch.inf, -1.0]], requires_grad=True)
    loss, _ = positive_nll(logp, torch.tensor([True]), torch.tensor([[True, True]]))
    loss.sum().backward()
    assert loss.tolist() == [[0.0, 1.0]]
    assert logp.grad.tolist() == [[0.0, -1.0]]


def test_value_loss_by_hand():
    """Old value 0, bound ±0.2, return 1: beyond the bound towards the return only the bounded
    error remains, without gradient; beyond it away from the return the plain error stays."""
    values = torch.tensor([[0.1, 0.5, -0.5, torch.nan]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    old = torch.zeros(1, 4, dtype=torch.float64)
    returns = torch.tensor([[1.0, 1.0, 1.0, torch.nan]], dtype=torch.float64)
    plain, metrics = value_loss(values, old, returns, mask)
    expected = torch.tensor([[0.405, 0.125, 1.125, 0]], dtype=torch.float64)
    torch.testing.assert_close(plain, expected)
    assert torch.autograd.grad(plain.sum(), values)[0].tolist() == [[-0.9, -0.5, -1.5, 0.0]]
    assert metrics["value_error"].item() == pytest.approx(0.81 + 0.25 + 2.25)
    clipped, metrics = value_loss(values, old, returns, mask, clip=0.2)
    expected = torch.tensor([[0.405, 0.32, 1.125, 0]], dtype=torch.float64)
    torch.testing.assert_close(clipped, expected)
    assert torch.autograd.grad(clipped.sum(), values)[0].tolist() == [[-0.9, 0.0, -1.5, 0.0]]
    assert metrics["value_clip"].item() == 1
    assert metrics["value_tokens"].item() == 3


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="clip: expected a number > 0, got 0"):
        value_loss(LOGP, LOGP, LOGP, MASK, clip=0.0)
    with pytest.raises(ValueError, match=r"positive: expected shape \[2\], got \[1\]"):
        positive_nll(LOGP, torch.tensor([True]), MASK)
