"""Expected gradients against autograd, ranks by hand, and the estimates that experiments judge."""

from __future__ import annotations

import math

import pytest
import torch

from sim.lab.draws import normals
from sim.lab.enumeration import along, likelihood_gradient, relative_error, to_parameters
from sim.lab.statistics import rank_correlation
from sim.lab.tasks import prompt_set
from sim.lab.tree import grow

SEEDS = torch.tensor([5, 6])


@pytest.mark.parametrize("end", [False, True])
def test_expected_gradients_are_those_of_autograd(end):
    """Catches a weight on another token or state, weights off the mask, an impossible token."""
    tree = grow(3, 3, end=end)
    logits = normals(SEEDS, 1, shape=(2, tree.size, 3))
    logits[:, 0, 0, 1] = -torch.inf
    weights = normals(SEEDS, 2, shape=(2, tree.responses, 3))
    weights[:, 0, (tree.tokens[:, 0] == 1)] = 0.0
    wanted = logits.clone().requires_grad_()
    logp = along(tree, wanted.log_softmax(-1))
    loss = torch.where(tree.mask & (weights != 0), weights * logp, 0.0).sum()
    (gradient,) = torch.autograd.grad(loss, wanted)
    padded = torch.where(tree.mask, weights, torch.nan)
    torch.testing.assert_close(likelihood_gradient(tree, logits, padded), gradient)


def test_gradients_reach_the_parameters():
    """Catches features of another prompt, and a norm over all seeds together."""
    task = prompt_set([3, 4], prompts=3, held_out=1, features=2)
    weights = normals(task.seeds, 7, shape=(4, task.tree.size, 4))
    parameters = task.start.clone().requires_grad_()
    (task.logits(parameters) * weights).sum().backward()
    torch.testing.assert_close(to_parameters(task, weights), parameters.grad)
    truth = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    found = relative_error(truth + torch.tensor([[0.0, 1.0], [2.0, 0.0]]), truth)
    assert found.tolist() == pytest.approx([0.2, 2.0])


def test_rank_correlation_by_hand():
    """Catches ranks of ties in order of appearance, and a constant side taken for agreement."""
    assert rank_correlation([1, 5, 3], [10, 1000, 11]) == pytest.approx(1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4.
    assert rank_correlation([0, 1, 1, 2], [0, 3, 2, 9]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert math.isnan(rank_correlation([1, 1], [1, 2]))
    with pytest.raises(ValueError, match="right: expected 2 values as in left, got 1"):
        rank_correlation([1, 2], [1])
