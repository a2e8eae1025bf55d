"""Gradient descent on the parameters of all seeds at once, some of which may sit a step out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Optimizer", "OptimizerName"]

OptimizerName = Literal["sgd", "adam"]


class Optimizer:
    """Plain descent, or Adam ("Adam: A Method for Stochastic Optimization", arXiv 1412.6980).

    torch.optim knows one step count and would move every seed.

    Args:
        parameters: [N, …], changed in place.
        learning_rate: step size, one for all or [N].
        name: "sgd" or "adam".
    """

    def __init__(
        self, parameters: Tensor, learning_rate: float | Tensor, name: OptimizerName
    ) -> None:
        if name not in ("sgd", "adam"):
            raise ValueError(f"name: expected sgd or adam, got {name!r}")
        self.parameters = parameters
        self.name = name
        self.betas = (0.9, 0.999)
        self.mean = torch.zeros_like(parameters)
        self.square = torch.zeros_like(parameters)
        self.steps = parameters.new_zeros(len(parameters), *[1] * (parameters.ndim - 1))
        self.learning_rate = (
            learning_rate.view(self.steps.shape)
            if isinstance(learning_rate, Tensor)
            else learning_rate
        )

    @torch.no_grad()
    def step(self, gradient: Tensor, active: Tensor) -> None:
        """Move the active seeds, [N] bool, against their gradient."""
        moves = active.view(self.steps.shape)
        if self.name == "sgd":
            self.parameters -= torch.where(moves, self.learning_rate * gradient, 0.0)
            return
        first, second = self.betas
        self.steps += moves
        self.mean = torch.where(moves, self.mean.lerp(gradient, 1 - first), self.mean)
        self.square = torch.where(
            moves, self.square.lerp(gradient.square(), 1 - second), self.square
        )
        mean = self.mean / (1 - first**self.steps)
        square = self.square / (1 - second**self.steps)
        change = self.learning_rate * mean / (square.sqrt() + 1e-8)
        self.parameters -= torch.where(moves, change, 0.0)

    def reset(self, which: Tensor) -> None:
        """Forget the moments of these seeds, [N] bool."""
        over = which.view(self.steps.shape)
        for state in (self.mean, self.square, self.steps):
            state.masked_fill_(over, 0.0)
