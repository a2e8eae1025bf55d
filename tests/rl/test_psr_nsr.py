from __future__ import annotations

import pytest
import torch

from entropy_ext.rl import ppo_clip
from entropy_ext.rl.advantages import psr_nsr
from entropy_ext.rl.aggregate import aggregate
from tests.loss_runs import run

CORRECT = torch.tensor([True, False])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)


def _token_mean(advantages, mask):
    zeros = torch.zeros(mask.shape, dtype=torch.float64)
    return aggregate(ppo_clip(zeros, zeros, advantages, mask).loss, mask, "token-mean").item()


def test_one_right_one_wrong():
    """W: (−0.1·2 + 3)/5. Catches the paper's sign, and λ on the wrong side."""
    assert _token_mean(psr_nsr(CORRECT, MASK), MASK) == pytest.approx(0.56)
    wrong, right = MASK[1:], MASK[:1]
    assert _token_mean(psr_nsr(CORRECT[1:], wrong), wrong) == pytest.approx(1.0)
    assert _token_mean(psr_nsr(CORRECT[:1], right, positive=1.0), right) == pytest.approx(-1.0)


def test_reduces_to_signs():
    """Weights 1 and 1: REINFORCE with rewards ±1; no gradient, nothing off the mask."""
    signs = psr_nsr(CORRECT, MASK, positive=1.0, dtype=torch.float64)
    assert signs.tolist() == [[1, 1, 0], [-1, -1, -1]]
    assert signs.dtype == torch.float64
    assert psr_nsr(CORRECT, MASK, positive=0.0, negative=0.0).abs().max() == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [(0.5, -1.0, 0.8, 0.0), (1.5, -1.0, 1.5, 1.5), (1.5, 0.1, -0.12, 0.0)],
)
def test_clip_cases(ratio, advantage, loss, gradient):
    got = run(ppo_clip, [-1.0], advantage, ratio=ratio)
    assert got.loss == pytest.approx([loss])
    assert got.gradient == pytest.approx([gradient])


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"correct: expected torch.bool, got torch.float32"):
        psr_nsr(torch.ones(2), MASK)
    with pytest.raises(ValueError, match="positive: expected a number >= 0, got -1"):
        psr_nsr(CORRECT, MASK, positive=-1.0)
