"""A bandit of three arms whose changes of entropy can be followed by hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.tabular import centred_advantages, entropy_change, entropy_slope, softmax_policy
from sim.theorem1.sweep import GRADIENTS

__all__ = ["ETA", "PROBS", "BanditStep", "bandit_steps"]

PROBS = (0.7, 0.2, 0.1)
ETA = 0.01
REWARDS = {"likeliest arm pays": (1.0, 0.0, 0.0), "rarest arm pays": (0.0, 0.0, 1.0)}


class BanditStep(NamedTuple):
    """One gradient step of size ETA on the bandit. Entropy in nats."""

    case: str
    gradient: str
    advantages: tuple[float, ...]
    predicted: float
    measured: float


def bandit_steps() -> list[BanditStep]:
    """Both gradients for each choice of the paying arm."""
    policy = softmax_policy(np.log([PROBS]))
    steps = []
    for case, rewards in REWARDS.items():
        advantages = centred_advantages(policy, np.array([rewards]))
        for gradient, direction_of in GRADIENTS.items():
            direction = direction_of(policy, advantages)
            predicted = ETA * float(entropy_slope(policy, direction)[0])
            measured = float(entropy_change(policy, ETA * direction)[0])
            steps.append(
                BanditStep(case, gradient, tuple(advantages[0].tolist()), predicted, measured)
            )
    return steps
