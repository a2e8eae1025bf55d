"""Tabular softmax policies in float64, their gradient steps, and exact changes of entropy.

A table holds S states of A actions, and every quantity is a closed form over one row: a table may
be worked off in chunks of states without changing a bit. Derivations: docs/derivations.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "TabularPolicy",
    "centred_advantages",
    "covariance",
    "entropy_change",
    "entropy_change_by_subtraction",
    "entropy_curvature",
    "entropy_slope",
    "natural_direction",
    "softmax_policy",
    "vanilla_direction",
]

Array = NDArray[np.float64]

SERIES_LIMIT = 0.0625
"""Largest |u| for the series of _divergence_integrand; the direct form loses 5 bits there."""
SERIES = tuple((k - 1) / math.factorial(k) for k in range(2, 11))


class TabularPolicy(NamedTuple):
    """π = softmax(logits) in every state."""

    logp: Array
    """ln π [S, A], nats"""
    probs: Array
    """π [S, A]"""
    entropy: Array
    """H [S], nats"""
    lse: Array
    """ln Σ exp(logits) [S], nats"""


def softmax_policy(logits: Array) -> TabularPolicy:
    """The policy of a table of finite logits.

    ln π = (z − max z) − log1p(Σ′ exp(z − max z)), Σ′ leaving out the largest;  H = −Σ π ln π.

    Args:
        logits: z [S, A] float64, finite.

    Returns:
        TabularPolicy, float64.

    Raises:
        TypeError: logits are not a float64 array.
        ValueError: logits are not [S, A] with A ≥ 1, or not finite.
    """
    if not isinstance(logits, np.ndarray) or logits.dtype != np.float64:
        got = logits.dtype if isinstance(logits, np.ndarray) else type(logits).__name__
        raise TypeError(f"logits: expected a float64 array, got {got}")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits: expected [S, A] with A ≥ 1, got {list(logits.shape)}")
    if not np.isfinite(logits).all():
        raise ValueError("logits: expected finite values, got inf or NaN")
    likeliest = logits.argmax(-1, keepdims=True)
    row_max = np.take_along_axis(logits, likeliest, axis=-1)
    logp = logits - row_max
    probs = np.exp(logp)
    # The sum without the leading 1 keeps ln π of an almost certain action to full accuracy.
    np.put_along_axis(probs, likeliest, 0.0, axis=-1)
    rest = probs.sum(-1, keepdims=True)
    np.put_along_axis(probs, likeliest, 1.0, axis=-1)
    log_total = np.log1p(rest)
    logp -= log_total
    probs /= 1.0 + rest
    return TabularPolicy(logp, probs, -(probs * logp).sum(-1), (row_max + log_total)[:, 0])


def centred_advantages(policy: TabularPolicy, returns: Array) -> Array:
    """A = Q − Σ π Q: advantages of mean 0 under the policy. [S, A] from returns Q [S, A]."""
    return np.asarray(returns - (policy.probs * returns).sum(-1, keepdims=True))


def vanilla_direction(policy: TabularPolicy, advantages: Array) -> Array:
    """Change of the logits per unit step of vanilla policy gradient, π·A. [S, A]"""
    return policy.probs * advantages


def natural_direction(policy: TabularPolicy, advantages: Array) -> Array:
    """Change of the logits per unit step of natural policy gradient, A. [S, A]"""
    return advantages


def covariance(policy: TabularPolicy, x: Array, y: Array) -> Array:
    """Cov_π(x, y) = Σ π (x − Σ π x)(y − Σ π y) of every state. [S] from [S, A]"""
    probs = policy.probs
    x_centred = x - (probs * x).sum(-1, keepdims=True)
    y_centred = y - (probs * y).sum(-1, keepdims=True)
    return np.asarray((probs * x_centred * y_centred).sum(-1))


def entropy_slope(policy: TabularPolicy, direction: Array) -> Array:
    """dH/dη at η = 0 along Δz = η d: −Cov_π(ln π, d).

    With d = π A this is Theorem 1 and with d = A Theorem 2 of "The Entropy Mechanism of
    Reinforcement Learning for Reasoning Language Models", arXiv 2505.22617.

    Args:
        policy: S states of A actions.
        direction: d [S, A].

    Returns:
        [S], nats per unit step.
    """
    return -covariance(policy, policy.logp, direction)


def entropy_curvature(policy: TabularPolicy, direction: Array) -> Array:
    """d²H/dη² at η = 0 along Δz = η d: −Var_π(d) − Σ π (ln π + H)(d − Σ π d)².

    Half of it times η² is the leading error of the first-order prediction.

    Args:
        policy: S states of A actions.
        direction: d [S, A].

    Returns:
        [S], nats per squared unit step.
    """
    centred = direction - (policy.probs * direction).sum(-1, keepdims=True)
    surprise = policy.logp + policy.entropy[:, None]
    return -np.asarray((policy.probs * centred * centred * (1.0 + surprise)).sum(-1))


def _shift(policy: TabularPolicy, delta: Array) -> Array:
    """u = ln π′ − ln π of the logits z + δ: δ − log1p(Σ π expm1 δ). [S, A]"""
    return np.asarray(delta - np.log1p((policy.probs * np.expm1(delta)).sum(-1, keepdims=True)))


def _divergence_integrand(u: Array) -> Array:
    """u eᵘ − eᵘ + 1 ≥ 0, which is u²(1/2 + u/3 + u²/8 + …), to full relative accuracy."""
    result = np.full_like(u, SERIES[-1])
    for coefficient in reversed(SERIES[:-1]):
        result *= u
        result += coefficient
    result *= u
    result *= u
    large = np.abs(u) > SERIES_LIMIT
    if large.any():
        far = u[large]
        result[large] = far * np.exp(far) - np.expm1(far)
    return result


def entropy_change(policy: TabularPolicy, delta: Array) -> Array:
    """ΔH of adding δ to the logits, without subtracting two entropies.

    With u = δ − log1p(Σ π expm1 δ), the change of ln π:
    ΔH = −Σ π expm1(u)·(ln π + H) − Σ π (u eᵘ − eᵘ + 1).
    Every term vanishes with δ, so the rounding error does too; H(π′) − H(π) instead keeps a
    rounding error near 1e-16·H however small the step.

    Args:
        policy: S states of A actions.
        delta: δ [S, A], |δ| < 700.

    Returns:
        ΔH [S], nats.
    """
    u = _shift(policy, delta)
    surprise = policy.logp + policy.entropy[:, None]
    first = (policy.probs * np.expm1(u) * surprise).sum(-1)
    divergence = (policy.probs * _divergence_integrand(u)).sum(-1)
    return np.asarray(-first - divergence)


def entropy_change_by_subtraction(policy: TabularPolicy, delta: Array) -> Array:
    """ΔH as H(π′) − H(π): the obvious form, kept to show what rounding does to it. [S], nats"""
    logp = policy.logp + _shift(policy, delta)
    return np.asarray(-(np.exp(logp) * logp).sum(-1) - policy.entropy)
