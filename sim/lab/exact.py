"""What a policy does, exactly: sums over all responses instead of samples of them. Nats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sim.lab.tree import Tree

__all__ = [
    "Policy",
    "action_values",
    "covariance",
    "divergence",
    "entropy_to_go",
    "mean_token_entropy",
    "pass_at_k",
    "semantic_entropy",
    "state_values",
]


@dataclass(frozen=True)
class Policy:
    """π and what follows from it on the tree; leading dimensions [N, P]."""

    tree: Tree
    logp: Tensor
    """ln π(v|s) [N, P, S, V]"""
    response_logp: Tensor
    """[N, P, L]: of whole responses"""
    visits: Tensor
    """[N, P, S]: probability that a response passes through the state"""

    @classmethod
    def of(cls, tree: Tree, logits: Tensor) -> Policy:
        """The policy of a table of logits [N, P, S, V]; −inf is an impossible token."""
        logp = logits.log_softmax(-1)
        # ln of the probability of each prefix, then of each response, in the order of successors.
        reached = logp.new_zeros(*logp.shape[:-2], tree.size + tree.responses)
        for level in tree.levels:
            after = reached[..., level, None] + logp[..., level, :]
            reached[..., tree.successor[level].flatten()] = after.flatten(-2)
        prefixes, responses = reached.split([tree.size, tree.responses], -1)
        return cls(tree, logp, responses, prefixes.exp())

    @property
    def probs(self) -> Tensor:
        """π [N, P, S, V]"""
        return self.logp.exp()

    @property
    def responses(self) -> Tensor:
        """Probabilities of whole responses [N, P, L]."""
        return self.response_logp.exp()

    @property
    def token_entropy(self) -> Tensor:
        """H(π(·|s)) [N, P, S]"""
        return _entropy(self.probs)

    @property
    def sequence_entropy(self) -> Tensor:
        """Of whole responses [N, P]: Σ_s visits(s) H(s) by the chain rule."""
        return _entropy(self.responses)

    def mean(self, values: Tensor) -> Tensor:
        """Expectation of a value of each response, [N, P] from [N, P, L]."""
        return (self.responses * values).sum(-1)


def mean_token_entropy(policy: Policy) -> Tensor:
    """Entropy per token of the responses to all prompts, [N]: Σ visits·H / Σ visits."""
    total = (policy.visits * policy.token_entropy).sum((-2, -1))
    return total / policy.visits.sum((-2, -1))


def pass_at_k(success: Tensor, ks: Sequence[int]) -> Tensor:
    """Chance that one of k independent responses is right: 1 − (1 − p)^k. [..., K] from [...]"""
    k = torch.tensor(ks, dtype=success.dtype)
    # A sum over responses may round to just above 1.
    return -torch.expm1(k * torch.log1p(-success.clamp(0, 1))[..., None])


def divergence(policy: Policy, other: Policy) -> Tensor:
    """KL(π ‖ other) between whole responses, [N, P]; 0·ln 0 counts as 0."""
    probs = policy.responses
    gap = policy.response_logp - other.response_logp
    return torch.where(probs > 0, probs * gap, 0.0).sum(-1)


def state_values(policy: Policy, rewards: Tensor) -> Tensor:
    """Expected reward of going on from each prefix, [N, P, S] from rewards [N, P, L]."""
    return _backwards(policy, rewards, torch.zeros_like(policy.visits))


def action_values(policy: Policy, rewards: Tensor) -> Tensor:
    """Q: expected reward after each token in each state, [N, P, S, V] from rewards [N, P, L]."""
    values = torch.cat([state_values(policy, rewards), rewards], -1)
    return values[..., policy.tree.successor]


def entropy_to_go(policy: Policy) -> Tensor:
    """Entropy of what follows each prefix, [N, P, S]: H(s) + Σ_v π(v|s) · that of the next."""
    nothing = torch.zeros_like(policy.responses)
    return _backwards(policy, nothing, policy.token_entropy)


def covariance(policy: Policy, x: Tensor, y: Tensor) -> Tensor:
    """Cov_π(x, y) in every state, [N, P, S] from [N, P, S, V]; impossible tokens count for nothing.

    Centred on both sides, for E[xy] − E[x]·E[y] would cancel near a certain policy.
    """
    probs = policy.probs
    possible = probs > 0
    x, y = torch.where(possible, x, 0.0), torch.where(possible, y, 0.0)
    x = x - (probs * x).sum(-1, keepdim=True)
    y = y - (probs * y).sum(-1, keepdim=True)
    return (probs * x * y).sum(-1)


def semantic_entropy(policy: Policy, answers: Tensor) -> Tensor:
    """Entropy over answers, [N, P]; a response without one (−1) is an answer of its own."""
    responses = policy.tree.responses
    own = torch.arange(responses) + int(answers.max()) + 1
    label = torch.where(answers < 0, own, answers)
    mass = policy.responses.new_zeros(*answers.shape[:-1], int(label.max()) + 1)
    return _entropy(mass.scatter_add(-1, label, policy.responses))


def _entropy(probs: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(probs)
    return terms.sum(-1)


def _backwards(policy: Policy, final: Tensor, gain: Tensor) -> Tensor:
    """v(s) = gain(s) + Σ_v π(v|s) v(next), from `final` [N, P, L] back to the root."""
    tree = policy.tree
    values = torch.cat([torch.zeros_like(policy.visits), final], -1)
    for level in reversed(tree.levels):
        after = values[..., tree.successor[level]]
        # A fresh tensor for each level: autograd may want the ones before.
        here = gain[..., level] + (policy.probs[..., level, :] * after).sum(-1)
        values = torch.cat([values[..., : level.start], here, values[..., level.stop :]], -1)
    return values[..., : tree.size]
