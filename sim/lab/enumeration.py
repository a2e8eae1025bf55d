"""What a sampled gradient is on average: sums over every response in place of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from sim.lab.task import Task
from sim.lab.tree import Tree

__all__ = ["along", "likelihood_gradient", "relative_error", "to_parameters"]


def along(tree: Tree, table: Tensor) -> Tensor:
    """Entries of a table [..., S, V] at each response's tokens, [..., L, T]; 0 off the mask."""
    place = (tree.states * tree.vocab + tree.tokens).flatten()
    steps = table.flatten(-2)[..., place].unflatten(-1, tree.states.shape)
    return torch.where(tree.mask, steps, 0.0)


def likelihood_gradient(tree: Tree, logits: Tensor, weights: Tensor) -> Tensor:
    """Gradient of Σ_y Σ_t w(y, t)·ln π(y_t|s_t) on the logits, w held fixed.

    c(s, v) − π(v|s)·Σ_u c(s, u), where c adds the weights of all tokens v in state s.

    Args:
        tree: the responses.
        logits: [..., S, V]; −inf is an impossible token.
        weights: [..., L, T]; the probability of the response is to be part of it.

    Returns:
        [..., S, V].
    """
    place = (tree.states * tree.vocab + tree.tokens).flatten().expand(*weights.shape[:-2], -1)
    held = torch.where(tree.mask, weights, 0.0).flatten(-2)
    counts = torch.zeros_like(logits).flatten(-2).scatter_add(-1, place, held).view(logits.shape)
    return counts - logits.softmax(-1) * counts.sum(-1, keepdim=True)


def to_parameters(task: Task, gradient: Tensor) -> Tensor:
    """A gradient on the logits [N, P, S, V] as one on what is trained."""
    if task.features is None:
        return gradient
    return torch.einsum("npf,npsv->nfsv", task.features, gradient)


def relative_error(estimate: Tensor, truth: Tensor) -> Tensor:
    """‖estimate − truth‖/‖truth‖ for each seed, [N] from [N, …]."""
    gap, size = (one.flatten(1).norm(dim=-1) for one in (estimate - truth, truth))
    found: Tensor = gap / size
    return found
