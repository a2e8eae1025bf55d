"""The entropy change that each token's own step makes, and what the library predicts of it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entropy_ext import (
    TokenStats,
    clip_cov,
    covariance,
    entropy_change,
    kl_cov,
    steer_weights,
    token_stats,
    top_entropy,
)
from sim import tabular
from sim.covariance.policies import Point
from sim.tabular import Array, TabularPolicy, softmax_policy

__all__ = ["FORMS", "SELECTORS", "Forecast", "forecast", "true_changes"]

FORMS = ("covariance", "STEER, code", "STEER, own logit", "exact")
SELECTORS = ("Clip-Cov", "KL-Cov", "top entropy")
CHUNK_ELEMENTS = 2**18
"""Logits a chunk of tokens holds; its dozen float64 arrays stay near the processor's caches."""
DRAWS = 25
"""Of Clip-Cov, which takes a handful of tokens at random: its shares are means over so many."""
LARGEST_INFLUENCE = 100.0
"""Of |Ω|, that it can be read off a weight: exp(−100) is a float64 far from underflow."""


class Forecast(NamedTuple):
    """What is known of the N valid tokens before any step is taken."""

    changes: dict[str, Array]
    """form → ΔH per unit step [N], nats; of the covariance and the code's form only up to scale"""
    picked: dict[str, NDArray[np.bool_]]
    """selector with its paper's settings → [draws, N]; more than one draw where it is random"""
    entropy: float
    """mean over the tokens, nats"""


def forecast(point: Point, seed: int) -> Forecast:
    """Everything from the library: the statistics, the forms and the selections."""
    stats = _statistics(point.logits, point.tokens)
    old = _statistics(point.old_logits, point.tokens)
    mask, advantages = point.mask, point.advantages
    cov = covariance(stats.logp, advantages, mask)
    ratio = (stats.logp - old.logp).exp()
    # The authors' code takes the entropy from the pass that scored the samples.
    code = _influence("code", stats, old.logp, old.entropy, advantages, mask)
    own_logit = _influence("own_logit", stats, old.logp, stats.entropy, advantages, mask)
    changes = (-cov, -code, -own_logit, entropy_change(stats, advantages, ratio=ratio))
    picked = (
        torch.stack([clip_cov(cov, mask, seed=seed + draw) for draw in range(DRAWS)]),
        kl_cov(cov, mask)[None],
        top_entropy(stats.entropy, mask)[None],
    )
    return Forecast(
        {form: change[mask].numpy() for form, change in zip(FORMS, changes, strict=True)},
        {name: drawn[:, mask].numpy() for name, drawn in zip(SELECTORS, picked, strict=True)},
        float(stats.entropy[mask].mean()),
    )


def _statistics(logits: Tensor, tokens: Tensor) -> TokenStats:
    """Of tokens [P, G, T] under logits [P, T, A], which the group shares without a copy."""
    shared = logits[:, None].expand(-1, tokens.shape[1], -1, -1)
    return token_stats(shared, tokens, extras=True)


def _influence(
    form: Literal["code", "own_logit"],
    stats: TokenStats,
    old_logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor,
) -> Tensor:
    """STEER's signed Ω, read off the weights: with this scale a weight is exp(−|Ω|)."""
    weights = steer_weights(
        stats.logp,
        old_logp,
        entropy,
        advantages,
        mask,
        form=form,
        lambda_min=math.exp(-LARGEST_INFLUENCE),
        weight_scale=LARGEST_INFLUENCE,
    )
    size = -torch.where(mask, weights, 1.0).log()
    return torch.sign(advantages * (stats.logp + entropy)) * size


def true_changes(point: Point, eta: float) -> Array:
    """ΔH of Δz = η ρ A (e_token − π), taken for one valid token at a time. [N], nats"""
    actions = point.logits.shape[-1]
    policy = softmax_policy(point.logits.reshape(-1, actions).numpy())
    states = torch.arange(len(policy.entropy)).view(point.logits.shape[:2])
    state = states[:, None].expand(point.tokens.shape)[point.mask].numpy()
    tokens = point.tokens[point.mask].numpy()
    old = softmax_policy(point.old_logits.reshape(-1, actions).numpy())
    ratio = np.exp(policy.logp[state, tokens] - old.logp[state, tokens])
    step = eta * ratio * point.advantages[point.mask].numpy()
    result = np.empty(len(tokens))
    per_chunk = max(1, CHUNK_ELEMENTS // actions)
    for first in range(0, len(tokens), per_chunk):
        part = slice(first, first + per_chunk)
        rows = TabularPolicy(*(field[state[part]] for field in policy))
        delta = -step[part, None] * rows.probs
        delta[np.arange(len(delta)), tokens[part]] += step[part]
        result[part] = tabular.entropy_change(rows, delta)
    return result
