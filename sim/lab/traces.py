"""What advantages from a value function are worth: bias and variance of their gradient, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from entropy_ext.rl.advantages import gae, terminal_rewards
from sim.lab.enumeration import along, likelihood_gradient
from sim.lab.exact import Policy, state_values
from sim.lab.tables import Table
from sim.lab.task import Task

__all__ = ["TraceError", "trace_error", "trace_errors"]


class TraceError(NamedTuple):
    """Of the gradient of one response, over its mean part along the true gradient; [N, P] each."""

    bias: Tensor
    """length of the mean's part across the true gradient"""
    noise: Tensor
    """trace of the covariance, over the square"""


def trace_error(
    policy: Policy, rewards: Tensor, values: Tensor, decay: Tensor | float
) -> TraceError:
    """Bias and variance of Σ_t A_t ∇ln π(a_t|s_t), A by `rl.advantages.gae`, on the logits.

    Args:
        policy: that samples.
        rewards: [N, P, L], at the last token.
        values: [N, P, S], of the value function.
        decay: λ, a number or [L], one for each response.
    """
    tree, probs = policy.tree, policy.responses[..., None]
    lead = rewards.shape
    mask = tree.mask.expand(*lead, -1).flatten(0, -2)
    seen = values[..., tree.states].flatten(0, -2)
    each = decay.expand(lead).flatten() if isinstance(decay, Tensor) else decay
    advantages = gae(terminal_rewards(rewards.flatten(), mask), seen, mask, decay=each)
    advantages = advantages.view(*lead, -1)
    mean = likelihood_gradient(tree, policy.logp, probs * advantages).flatten(-2)
    truth = likelihood_gradient(tree, policy.logp, probs * rewards[..., None]).flatten(-2)
    direction = truth / truth.norm(dim=-1, keepdim=True)
    signal = (mean * direction).sum(-1)
    across = mean - signal[..., None] * direction
    # ‖1[a] − π‖² of each token; states of one response differ, so that its squares add up.
    size = 1 - 2 * policy.probs + policy.probs.square().sum(-1, keepdim=True)
    squares = (probs * advantages.square() * along(tree, size)).sum((-2, -1))
    noise = (squares - mean.square().sum(-1)) / signal.square()
    return TraceError(across.norm(dim=-1) / signal, noise)


def trace_errors(task: Task, decays: Mapping[str, Tensor | float]) -> Table:
    """`trace_error` at the start of every seed's first prompt, with values of 0 and exact ones.

    Args:
        task: of N seeds.
        decays: name → λ.

    Returns:
        Columns values ("none", "exact"), λ, seed, bias, noise.
    """
    policy = Policy.of(task.tree, task.start)
    exact = state_values(policy, task.rewards)
    rows: list[tuple[str, str, int, float, float]] = []
    for kind, values in (("none", torch.zeros_like(exact)), ("exact", exact)):
        for name, decay in decays.items():
            error = trace_error(policy, task.rewards, values, decay)
            pairs = zip(error.bias[:, 0].tolist(), error.noise[:, 0].tolist(), strict=True)
            rows += [(kind, name, n, *pair) for n, pair in enumerate(pairs)]
    return Table.of(("values", "λ", "seed", "bias", "noise"), rows)
