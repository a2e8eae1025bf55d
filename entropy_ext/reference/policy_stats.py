"""policy_stats in plain PyTorch: the four functions, one after another."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from entropy_ext.policy_stats import PolicyStats
from entropy_ext.reference.moments import clipped_tokens, covariance
from entropy_ext.reference.selectors import clip_cov
from entropy_ext.reference.steer import steer_weights
from entropy_ext.reference.token_stats import token_stats

__all__ = ["policy_stats"]


def policy_stats(
    logits: Tensor,
    tokens: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    *,
    old_logp: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    moments: Any = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    fraction: float = 2e-4,
    bounds: tuple[float, float] = (1.0, 5.0),
    seed: int | Tensor = 0,
    token_ids: Tensor | None = None,
    steer_form: Literal["code", "own_logit", "exact"] = "code",
    lambda_min: float = 0.8,
    floor: float = 0.02,
) -> PolicyStats:
    """token_stats, covariance, clip_cov and steer_weights; without old_logp, ρ = 1."""
    stats = token_stats(
        logits, tokens, temperature=temperature, mask=mask, extras=steer_form == "exact"
    )
    logp = stats.logp.detach()
    old = logp if old_logp is None else old_logp
    cov = covariance(logp, advantages, mask, moments=moments)
    clipped = clipped_tokens(logp, old, advantages, mask, clip_low=clip_low, clip_high=clip_high)
    selected = clip_cov(
        cov,
        mask,
        fraction=fraction,
        bounds=bounds,
        clipped=clipped,
        seed=seed,
        token_ids=token_ids,
    )
    weight = steer_weights(
        logp,
        old,
        stats.entropy,
        advantages,
        mask,
        form=steer_form,
        lambda_min=lambda_min,
        floor=floor,
        collision=stats.collision,
        collision_logp=stats.collision_logp,
    )
    return PolicyStats(*stats, covariance=cov, clip_cov=selected, steer_weight=weight)
