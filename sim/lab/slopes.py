"""What a training step does to a quantity, to first order and without sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from entropy_ext.rl.advantages import group_zscore
from sim.lab.exact import Policy
from sim.lab.task import Task

__all__ = ["first_scores", "price", "slope", "zscore_weight"]


def slope(
    task: Task, scores: Tensor, quantity: Callable[[Policy], Tensor], parameters: Tensor
) -> Tensor:
    """Change of a quantity per unit learning rate, of a step on Σ_o π(o)·score(o)·∇ln π(o).

    ⟨∇quantity, Σ_o π(o) score(o) ∇ln π(o)⟩, the scores fixed: the expectation of every loss that
    weighs whole responses, such as by their advantage over their length.

    Args:
        task: of N seeds.
        scores: [N, P, L]; the step is a sum over the prompts.
        quantity: of the policy on all prompts, [N].
        parameters: of the policy, as `Task.start`.

    Returns:
        [N].
    """
    leaf = parameters.detach().requires_grad_()
    policy = Policy.of(task.tree, task.logits(leaf))
    objective = policy.mean(scores).sum()
    (step,) = torch.autograd.grad(objective, leaf, retain_graph=True)
    (gradient,) = torch.autograd.grad(quantity(policy).sum(), leaf)
    change: Tensor = (gradient * step).flatten(1).sum(-1)
    return change


def price(task: Task, scores: Tensor, quantity: Callable[[Policy], Tensor]) -> Tensor:
    """What the first step changes a quantity by for each unit of expected reward it gains, [N].

    A ratio of slopes, in which the learning rate and the scale of the scores cancel.
    """
    gained = slope(task, scores, lambda policy: policy.mean(task.rewards).mean(-1), task.start)
    return slope(task, scores, quantity, task.start) / gained


def first_scores(task: Task, group_size: int) -> dict[str, Tensor]:
    """What GRPO's and Dr. GRPO's exact expected first step weighs responses by, [N, P, L] each.

    c(p)·(r − p)/|y| with `zscore_weight`'s c, and r − p; up to scale, for rewards of 0 and 1.
    """
    success = Policy.of(task.tree, task.logits(task.start)).mean(task.rewards)[..., None]
    advantages = task.rewards - success
    tokens = task.tree.mask.sum(-1)
    divided = zscore_weight(success, group_size) * advantages / tokens
    return {"GRPO": divided, "Dr. GRPO": advantages}


def zscore_weight(success: Tensor, group_size: int) -> Tensor:
    """c(p): GRPO's expected step on a prompt is c times the gradient of its success rate p.

    c = E_K[Σ_right A / G] / (p(1 − p)), K ~ Binomial(G, p) right answers, A as `group_zscore` gives
    them. Without the division by the standard deviation c is (G − 1)/G for every prompt.

    Args:
        success: [...] float64, p in (0, 1).
        group_size: G.

    Returns:
        [...].
    """
    counts = torch.arange(group_size + 1).double()
    rewards = (torch.arange(group_size) < counts[:, None]).double()
    prompt = torch.arange(group_size + 1).repeat_interleave(group_size)
    mask = torch.ones(len(prompt), 1, dtype=torch.bool)
    advantages = group_zscore(rewards.flatten(), prompt, mask).view_as(rewards)
    signal = (advantages * rewards).sum(-1) / group_size
    # Tensors of counts, in double: the library's own would be in single precision.
    size = counts[-1:].expand(*success.shape, 1)
    chances = torch.distributions.Binomial(size, success[..., None]).log_prob(counts).exp()
    weight: Tensor = (chances * signal).sum(-1) / (success * (1 - success))
    return weight
