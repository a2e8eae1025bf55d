"""What the selection benchmark times: our selectors and eager formulas, and the tokens they get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench import selection_baselines as eager
from bench.selection_baselines import Tokens
from entropy_ext import (
    TokenStats,
    _core,
    clip_cov,
    covariance,
    entropy_change,
    kl_cov,
    native_selection,
    ops_selection,
    policy_stats,
    steer_weights,
    top_entropy,
)

__all__ = ["SELECTORS", "Selector", "make_tokens"]

VALID = 0.8
VOCAB = 512
MOST_LOGITS = 131072 * VOCAB
"""Larger batches are measured without the logits that they would need."""


def make_tokens(count: int, device: torch.device) -> Tokens:
    """Tokens as in a training step: most entropies small, a fifth of the batch padding."""
    generator = torch.Generator().manual_seed(0)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    def normal() -> Tensor:
        return torch.randn(count, generator=generator)

    logp = uniform().clamp(min=1e-4).log()
    mask, advantages = uniform() < VALID, normal()
    # Wide enough that Clip-Cov has candidates: a sixth of the tokens.
    cov = 3.0 * covariance(logp, advantages, mask)
    collision = 0.1 + 0.9 * uniform()
    made = Tokens(
        logp=logp,
        old_logp=(logp + 0.1 * normal()).clamp(max=0.0),
        entropy=3.0 * uniform() ** 3,
        collision=collision,
        collision_logp=-collision * uniform(),
        advantages=advantages,
        mask=mask,
        cov=cov,
        clipped=uniform() < 0.01,
    )
    if count * VOCAB <= MOST_LOGITS:
        logits = 3.0 * torch.randn(count, VOCAB, generator=generator)
        picked = torch.randint(VOCAB, (count,), generator=generator)
        made = replace(made, logits=logits, tokens=picked)
    values = {name: value for name, value in made.__dict__.items() if value is not None}
    return Tokens(**{name: value.to(device) for name, value in values.items()})


@dataclass(frozen=True)
class Selector:
    """Ours and the eager formula, and what ours asks of a GPU: kernels, and no synchronisation."""

    ours: Callable[[Tokens, Tensor], object]
    eager: Callable[[Tokens], object]
    launches: Callable[[int], int]


def select_launches(
    order: native_selection.Order, count: native_selection.Count
) -> Callable[[int], int]:
    """One fill, the passes, the mark; for float32 without token ids."""

    def launches(tokens: int) -> int:
        passes = _core.select_passes(
            dtype=0, order=int(order), rule=int(count), count=tokens, has_ids=False
        )
        return passes + 2

    return launches


def ours_policy(x: Tokens, seed: Tensor) -> object:
    """What policy_stats does after the logits."""
    return ops_selection.policy_selection(
        *(x.logp, x.entropy, x.advantages, x.mask, x.old_logp, None, None, None, seed, None),
        *(eager.CLIP, eager.CLIP, eager.CLIP_FRACTION, *eager.BOUNDS),
        *("code", eager.LAMBDA_MIN, eager.FLOOR),
    )


def ours_policy_stats(x: Tokens, seed: Tensor) -> object:
    """From logits."""
    assert x.logits is not None
    assert x.tokens is not None
    temperature = torch.ones((), device=x.logits.device)
    with torch.no_grad():
        return policy_stats(
            *(x.logits, x.tokens, x.advantages, x.mask),
            old_logp=x.old_logp,
            temperature=temperature,
            seed=seed,
        )


RANDOM, LARGEST = native_selection.Order.RANDOM, native_selection.Order.LARGEST
COUNT = native_selection.Count
COVARIANCE_LAUNCHES = 3  # sums of blocks, their sum, the covariance
STEER_LAUNCHES = 3  # a fill, the range, the map
clip_cov_launches = select_launches(RANDOM, COUNT.FLOOR)


def policy_launches(tokens: int) -> int:
    """Covariance, the clip, Clip-Cov and the weights."""
    return COVARIANCE_LAUNCHES + 1 + clip_cov_launches(tokens) + STEER_LAUNCHES


SELECTORS = {
    "covariance": Selector(
        lambda x, seed: covariance(x.logp, x.advantages, x.mask),
        eager.covariance,
        lambda tokens: COVARIANCE_LAUNCHES,
    ),
    "clip_cov": Selector(
        lambda x, seed: clip_cov(x.cov, x.mask, clipped=x.clipped, seed=seed),
        eager.clip_cov,
        clip_cov_launches,
    ),
    "kl_cov": Selector(
        lambda x, seed: kl_cov(x.cov, x.mask),
        eager.kl_cov,
        select_launches(LARGEST, COUNT.FLOOR),
    ),
    "top_entropy": Selector(
        lambda x, seed: top_entropy(x.entropy, x.mask),
        eager.top_entropy,
        select_launches(LARGEST, COUNT.CEIL),
    ),
    "top_entropy, quantile": Selector(
        lambda x, seed: top_entropy(x.entropy, x.mask, rule="quantile"),
        eager.top_entropy_quantile,
        select_launches(LARGEST, COUNT.QUANTILE),
    ),
    "entropy_change": Selector(
        lambda x, seed: entropy_change(
            TokenStats(x.logp, x.entropy, x.logp, x.collision, x.collision_logp), x.advantages
        ),
        eager.entropy_change,
        lambda tokens: 1,
    ),
    "steer_weights": Selector(
        lambda x, seed: steer_weights(x.logp, x.old_logp, x.entropy, x.advantages, x.mask),
        eager.steer_weights,
        lambda tokens: STEER_LAUNCHES,
    ),
    "policy_stats after the logits": Selector(ours_policy, eager.policy, policy_launches),
    "policy_stats": Selector(
        ours_policy_stats, eager.policy_stats, lambda tokens: 1 + policy_launches(tokens)
    ),
}
