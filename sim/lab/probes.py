"""Exact measures that experiments add to those of every training run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sim.lab.exact import Policy, pass_at_k
from sim.lab.measures import trained
from sim.lab.task import Task

__all__ = ["entropy_of_right", "hardest", "held_out_pass", "kept_entropy", "rare_right"]


def hardest(task: Task, policy: Policy) -> Tensor:
    """Success on the last, hardest quarter of prompts trained on in order of difficulty, [N]."""
    rows = slice(task.trained.stop * 3 // 4, task.trained.stop)
    return policy.mean(task.correct.double())[:, rows].mean(-1)


def held_out_pass(task: Task, policy: Policy, ks: Sequence[int]) -> dict[str, Tensor]:
    """ "held-out pass@k" → mean over the prompts held out, [N]."""
    success = policy.mean(task.correct.double())[:, task.training :]
    passed = pass_at_k(success, ks).mean(1).unbind(-1)
    return {f"held-out pass@{k}": each for k, each in zip(ks, passed, strict=True)}


def entropy_of_right(task: Task, policy: Policy) -> Tensor:
    """Entropy among the right responses to a trained prompt, nats, [N]."""
    seen, right = trained(task, policy), task.correct[:, task.trained]
    among = seen.response_logp.masked_fill(~right, -float("inf")).log_softmax(-1).exp()
    # The clamp keeps 0·ln 0 at 0.
    return (-among * among.clamp(min=1e-300).log()).sum(-1).mean(-1)


def rare_right(task: Task, policy: Policy) -> Tensor:
    """Probability of the right responses that were rare at the start, [N].

    Rare: of the right responses to a trained prompt the half that was less likely.
    """
    right = task.correct[:, task.trained]
    start = trained(task, Policy.of(task.tree, task.logits(task.start)))
    rank = start.response_logp.masked_fill(~right, torch.inf).argsort(-1).argsort(-1)
    rare = right & (rank < right.sum(-1, keepdim=True) // 2)
    return trained(task, policy).mean(rare.double()).mean(-1)


def kept_entropy(task: Task, policy: Policy, group_size: int) -> Tensor:
    """Expected entropy per token of the groups with right and wrong responses, nats, [N]."""
    success = policy.mean(task.correct.double())
    kept = 1 - success**group_size - (1 - success) ** group_size
    visits = kept[..., None] * policy.visits
    total = (visits * policy.token_entropy).sum((-2, -1))
    return total / visits.sum((-2, -1))
