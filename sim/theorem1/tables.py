"""Random policies and returns, each state from its own random stream."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.tabular import Array, TabularPolicy, softmax_policy

__all__ = ["CHUNK_ELEMENTS", "SCALES", "Chunk", "chunks"]

CHUNK_ELEMENTS = 2**18
"""Logits per chunk; a chunk's dozen float64 arrays stay near the processor's caches."""
SCALES = (0.5, 8.0)
"""Range of the logits' standard deviation, drawn log-uniformly: from flat to almost certain."""


class Chunk(NamedTuple):
    """Some consecutive states of a table."""

    first_state: int
    logits: Array
    """[S, A]"""
    policy: TabularPolicy
    returns: Array
    """Q [S, A] in [0, 1]"""
    tokens: NDArray[np.int64]
    """an action of each state, uniformly drawn [S]"""


def chunks(
    states: int,
    actions: int,
    *,
    seed: int,
    alignment: float = 1.0,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Iterator[Chunk]:
    """The states of a random table, in chunks of at most chunk_elements logits.

    z = scale·ε₁ with ln scale uniform, and Q = sigmoid(2(ρ x + √(1 − ρ²) ε₂)) with
    x = (ln π + H)/σ_π(ln π) and ρ uniform in [−alignment, alignment]: success probabilities that
    go along with, or against, what the policy already finds likely. A state's numbers depend on
    seed, actions and its index only, never on the chunks.

    Args:
        states: number of states S ≥ 1.
        actions: number of actions A ≥ 2.
        seed: of all random streams, ≥ 0.
        alignment: largest |ρ|, in [0, 1]; 0 makes returns independent of the policy.
        chunk_elements: bound on the logits of a chunk; at least one state is taken.

    Yields:
        Chunk after Chunk.
    """
    per_chunk = max(1, chunk_elements // actions)
    for first_state in range(0, states, per_chunk):
        count = min(per_chunk, states - first_state)
        logits = np.empty((count, actions))
        noise = np.empty((count, actions))
        rho = np.empty((count, 1))
        tokens = np.empty(count, dtype=np.int64)
        for row in range(count):
            stream = np.random.default_rng([seed, first_state + row])
            scale = math.exp(stream.uniform(*np.log(SCALES)))
            rho[row] = stream.uniform(-alignment, alignment)
            tokens[row] = stream.integers(actions)
            stream.standard_normal(out=logits[row])
            logits[row] *= scale
            stream.standard_normal(out=noise[row])
        policy = softmax_policy(logits)
        returns = _returns(policy, rho, noise)
        yield Chunk(first_state, logits, policy, returns, tokens)


def _returns(policy: TabularPolicy, rho: Array, noise: Array) -> Array:
    """sigmoid(2(ρ x + √(1 − ρ²) noise)), x the standardised ln π. [S, A]"""
    surprise = policy.logp + policy.entropy[:, None]
    deviation = np.sqrt((policy.probs * surprise * surprise).sum(-1, keepdims=True))
    score = rho * (surprise / deviation) + np.sqrt(1.0 - rho * rho) * noise
    # sigmoid(2s) = (1 + tanh s)/2, which does not overflow for the rarest actions.
    return np.asarray(0.5 * (1.0 + np.tanh(score)))
