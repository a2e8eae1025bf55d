"""What a policy is trained on: prompts, the tree of responses to each, and which are right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sim.lab.tree import Tree

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """N seeds of one kind of problem, in float64; nothing of one seed touches another.

    The policy is a table of logits [N, P, S, V]: P prompts, S prefixes, V tokens. Either the table
    itself is trained (features is None), or Σ_f features[n, p, f] · parameters[n, f, s, v] is, a
    log-linear policy whose prompts share parameters: what is learnt on one moves the others by the
    inner product of their features.
    """

    name: str
    tree: Tree
    seeds: Tensor
    """[N] int64"""
    start: Tensor
    """[N, P, S, V] logits or [N, F, S, V] parameters that training starts from"""
    correct: Tensor
    """[N, P, L] bool: the checker's verdict on each response"""
    answers: Tensor
    """[N, P, L] int64: the answer that a response arrives at; −1 for none"""
    features: Tensor | None = None
    """[N, P, F]"""
    payoff: Tensor | None = None
    """[N, P, L]: the reward where it is not 1 for right and 0 for wrong"""
    teacher: Tensor | None = None
    """[N, P, L]: the probabilities with which a teacher writes each response"""
    training: int | None = None
    """prompts from this one on are held out; None: all are trained on"""
    domain: Tensor | None = None
    """[P] int64: kind of problem"""

    @property
    def prompts(self) -> int:
        """P, the held-out ones included."""
        return self.correct.shape[1]

    @property
    def trained(self) -> slice:
        """The prompts to train on."""
        return slice(self.training)

    @property
    def rewards(self) -> Tensor:
        """[N, P, L] float64: what training is told of each response."""
        return self.correct.double() if self.payoff is None else self.payoff

    def logits(self, parameters: Tensor) -> Tensor:
        """The table [N, P, S, V] of the policy. Gradient flows to the parameters."""
        if self.features is None:
            return parameters
        return torch.einsum("npf,nfsv->npsv", self.features, parameters)
