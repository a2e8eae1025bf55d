"""A sampler that is not the trainer's policy: what weights make of the gradient, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes import MiniRL, Plan, Targets
from entropy_ext.rl import Rollout
from entropy_ext.rl.losses import TokenLoss, minirl
from sim.lab.enumeration import along, likelihood_gradient, relative_error
from sim.lab.exact import Policy
from sim.lab.tables import Cell
from sim.lab.task import Task

__all__ = ["NONE", "RESPONSE", "TOKEN", "Uncorrected", "gradients", "mismatch_bias"]

NONE, TOKEN, RESPONSE = "no weight", "token's weight", "response's weight"


class Uncorrected(MiniRL):
    """MiniRL without the mismatch in its weight."""

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        return super().policy_loss(
            stats, rollout.replace(rollout_logp=rollout.old_logp), targets, plan
        )


def gradients(task: Task, logits: Tensor, engine: Tensor) -> dict[str, Tensor]:
    """Expected gradients on the logits where `engine` writes, and that of the reward."""
    tree = task.tree
    policy, sampler = (Policy.of(tree, table) for table in (logits, engine))
    advantages = task.rewards - sampler.mean(task.rewards)[..., None]
    leaf = logits.clone().requires_grad_()
    logp = along(tree, leaf.log_softmax(-1)).flatten(0, 2)
    written = along(tree, sampler.logp).flatten(0, 2)
    mask = tree.mask.expand(*task.rewards.shape[:2], -1, -1).flatten(0, 2)
    per_token = advantages.flatten()[:, None] * mask
    found = {}
    for name, rollout_logp in ((NONE, logp.detach()), (TOKEN, written)):
        loss, _ = minirl(logp, logp.detach(), per_token, mask, rollout_logp=rollout_logp)
        expected = -(sampler.responses.flatten()[:, None] * loss).sum()
        (found[name],) = torch.autograd.grad(expected, leaf, retain_graph=True)
    ratio = (policy.response_logp - sampler.response_logp).exp()
    weights = {RESPONSE: sampler.responses * ratio, "truth": policy.responses}
    for name, weight in weights.items():
        whole = (weight * advantages)[..., None].expand(*weight.shape, tree.max_length)
        found[name] = likelihood_gradient(tree, logits, whole)
    return found


def mismatch_bias(
    task: Task, noise: Tensor, sizes: Sequence[float]
) -> dict[tuple[Cell, ...], Tensor]:
    """Relative error of each weight's gradient at the start, (weight, size) → [N].

    Args:
        task: of N seeds.
        noise: [N, P, S, V], what the sampler's logits are off by at size 1.
        sizes: of the noise.
    """
    errors: dict[tuple[Cell, ...], Tensor] = {}
    for size in sizes:
        found = gradients(task, task.start, task.start + size * noise)
        for name in (NONE, TOKEN, RESPONSE):
            errors[name, size] = relative_error(found[name], found["truth"])
    return errors
