"""The policy gradient as a random variable: of single responses, and of sampled groups."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sim.lab.draws import uniforms
from sim.lab.exact import Policy
from sim.lab.task import Task

__all__ = ["baseline", "baseline_variances", "group_noise", "score_vectors", "variance"]

GROUPS = 22
"""stream of random numbers"""


def score_vectors(policy: Policy) -> Tensor:
    """∇ln π of each response on the logits of its prompt, [N, P, L, S·V]."""
    tree, rows = policy.tree, torch.arange(policy.tree.responses)
    shape = (*policy.responses.shape, tree.size, tree.vocab)
    scores = policy.logp.new_zeros(shape)
    for t in range(tree.max_length):
        state, there = tree.states[:, t], tree.mask[:, t, None]
        chosen = torch.nn.functional.one_hot(tree.tokens[:, t], tree.vocab)
        step = chosen - policy.probs[..., state, :]
        scores[..., rows, state, :] += torch.where(there, step, 0.0)
    return scores.flatten(-2)


def baseline(policy: Policy, rewards: Tensor, weights: Tensor) -> Tensor:
    """Mean reward, responses weighing π·weights: [N, P] from [N, P, L] and [..., L].

    Weights of ‖∇ln π‖² give the baseline of least variance.
    """
    return policy.mean(weights * rewards) / policy.mean(weights.expand_as(rewards))


def variance(policy: Policy, scores: Tensor, advantages: Tensor) -> Tensor:
    """Trace of the covariance of A·∇ln π of one response, [N, P].

    Args:
        policy: that samples.
        scores: see `score_vectors`.
        advantages: [N, P, L], with a baseline that does not depend on the sample.
    """
    mean = torch.einsum("npl,nplx->npx", policy.responses * advantages, scores)
    square = policy.mean(advantages.square() * scores.square().sum(-1))
    return square - mean.square().sum(-1)


def baseline_variances(policy: Policy, scores: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """`variance` of the gradient with each baseline over that with the mean reward, [N, P].

    "none"; "mean"; "OPO", the mean of rewards weighing lengths; "optimum", that of least variance.
    """
    tokens = policy.tree.mask.sum(-1).double()
    weights = {
        "mean": torch.ones_like(tokens),
        "OPO": tokens,
        "optimum": scores.square().sum(-1),
    }
    found = {"none": variance(policy, scores, rewards)}
    for name, weight in weights.items():
        advantages = rewards - baseline(policy, rewards, weight)[..., None]
        found[name] = variance(policy, scores, advantages)
    return {name: value / found["mean"] for name, value in found.items()}


def group_noise(
    task: Task,
    policy: Policy,
    scores: Tensor,
    advantage: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    group_size: int,
    groups: int,
) -> Tensor:
    """Variance of a group's gradient over the square of its part along the true gradient, [N].

    The scale of the advantages cancels, and what leads elsewhere counts as noise only.

    Args:
        task: of N seeds and one prompt.
        policy: that samples.
        scores: see `score_vectors`.
        advantage: from rewards [B], groups [B] and mask [B, T], as in `rl.advantages`.
        group_size: responses of a group.
        groups: drawn for each seed.
    """
    tree, seeds = task.tree, len(task.seeds)
    u = uniforms(task.seeds, GROUPS, shape=(groups * group_size,))
    total = policy.responses[:, 0].cumsum(-1)
    drawn = torch.searchsorted(total, u * total[:, -1:])
    rewards = task.rewards[:, 0].gather(-1, drawn).flatten()
    prompt = torch.arange(seeds * groups).repeat_interleave(group_size)
    each = advantage(rewards, prompt, tree.mask[drawn].flatten(0, 1))[:, 0]
    weights = scores.new_zeros(seeds, groups, tree.responses).scatter_add(
        -1, drawn.view(seeds, groups, group_size), each.view(seeds, groups, group_size)
    )
    gradients = weights @ scores[:, 0]
    truth = torch.einsum("nl,nlx->nx", policy.responses[:, 0] * task.rewards[:, 0], scores[:, 0])
    along = torch.einsum("ngx,nx->ng", gradients, truth / truth.norm(dim=-1, keepdim=True))
    # The square of a mean of samples has a part of their variance in it.
    signal = along.mean(-1).square() - along.var(-1) / groups
    noise: Tensor = gradients.var(1).sum(-1) / signal
    return noise
