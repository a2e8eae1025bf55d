"""Small steps on the logits of single states, and the entropy's answer as it is measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.tabular import Array, TabularPolicy, entropy_change, softmax_policy

__all__ = ["ETA", "UPDATES", "action_changes", "bump", "margin", "slope", "step", "turn"]

ETA = 1e-6
"""A step so small that the first order decides, yet far above the rounding error."""


def bump(policy: TabularPolicy) -> Array:
    """The direction of the first logit alone. [S, A]"""
    direction = np.zeros_like(policy.probs)
    direction[:, 0] = 1.0
    return direction


def step(policy: TabularPolicy) -> Array:
    """The direction of a policy-gradient step for the first action, e₀ − π. [S, A]"""
    return bump(policy) - policy.probs


UPDATES: dict[str, Callable[[TabularPolicy], Array]] = {"bump": bump, "step": step}


def slope(policy: TabularPolicy, direction: Array, *, eta: float = ETA) -> Array:
    """dH/dη measured by a central difference, [S]."""
    change = entropy_change(policy, eta * direction) - entropy_change(policy, -eta * direction)
    return np.asarray(change / (2 * eta))


def margin(policy: TabularPolicy, update: str) -> Array:
    """What changes sign where the slope along an update does, [S].

    ln π + H of the first action for "bump"; S₀ − Σ π S, S = π (ln π + H), for "step".
    """
    surprise = policy.logp + policy.entropy[:, None]
    if update == "bump":
        return surprise[:, 0]
    weighted = policy.probs * surprise
    return np.asarray(weighted[:, 0] - (policy.probs * weighted).sum(-1))


def turn(others: Array, update: str) -> tuple[float, float]:
    """Where the entropy's answer to an update turns, by bisection of the measured slope.

    Args:
        others: [A − 1] logits of all actions but the first.
        update: one of UPDATES.

    Returns:
        The logit of the first action at which the slope vanishes, and the margin there.
    """
    low, high = -30.0, 30.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        policy = softmax_policy(np.concatenate([[middle], others])[None])
        rises = slope(policy, UPDATES[update](policy))[0] > 0
        low, high = (middle, high) if rises else (low, middle)
    return 0.5 * (low + high), float(margin(policy, update)[0])


def action_changes(policy: TabularPolicy, advantages: Array, eta: float) -> Array:
    """ΔH of the step η A(a)(e_a − π) for each action a that may be sampled, [S, A]."""
    columns = []
    for action in range(policy.probs.shape[1]):
        direction = -policy.probs * advantages[:, action : action + 1]
        direction[:, action] += advantages[:, action]
        columns.append(entropy_change(policy, eta * direction))
    return np.stack(columns, -1)
