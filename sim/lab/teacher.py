"""What a teacher's traces teach: tokens that the policy hardly ever writes, and their weight."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.losses import mixed_policy
from sim.lab.enumeration import along
from sim.lab.exact import Policy
from sim.lab.task import Task

__all__ = ["rare_probability", "rare_tokens", "rare_weight"]


def rare_tokens(task: Task, below: float) -> Tensor:
    """The right responses' tokens of less probability at the start, [N, P, L, T] bool."""
    probs = along(task.tree, Policy.of(task.tree, task.start).probs)
    return task.correct[..., None] & task.tree.mask & (probs < below)


def rare_probability(task: Task, policy: Policy, below: float) -> Tensor:
    """Mean probability now of the tokens that were rare at the start, [N]."""
    rare = rare_tokens(task, below)
    held = torch.where(rare, along(task.tree, policy.probs), 0.0)
    return held.sum((1, 2, 3)) / rare.sum((1, 2, 3)).clamp(min=1)


def rare_weight(task: Task, below: float, gamma: float | None) -> Tensor:
    """Of a teacher's trace at the start: share of |∂loss/∂ln π| that falls on rare tokens, [N].

    Args:
        task: with a teacher.
        below: see `rare_tokens`.
        gamma: of the shaping in `mixed_policy`; None for none.
    """
    assert task.teacher is not None
    probs = along(task.tree, Policy.of(task.tree, task.start).probs)
    logp = torch.where(task.tree.mask, probs, 1.0).log().flatten(0, 2).requires_grad_()
    mask = torch.ones_like(logp, dtype=torch.bool)
    advantages = torch.ones_like(logp)
    loss = mixed_policy(logp, logp.detach(), advantages, mask, teacher=mask, gamma=gamma).loss
    (slope,) = torch.autograd.grad(loss.sum(), logp)
    weight = task.teacher[..., None] * slope.abs().view_as(probs) * task.tree.mask
    rare = torch.where(rare_tokens(task, below), weight, 0.0)
    return rare.sum((1, 2, 3)) / weight.sum((1, 2, 3))
