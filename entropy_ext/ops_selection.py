"""Moments and selection as torch operators, entropy_ext::covariance and so on.

None of them has a gradient; callers detach the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext import native_selection as native
from entropy_ext import native_weights
from entropy_ext.inputs_selection import check_tokens
from entropy_ext.native_selection import Count, Order

__all__ = [
    "clip_cov",
    "covariance",
    "kl_cov",
    "merge_moments",
    "policy_selection",
    "token_moments",
    "top_entropy",
]


@torch.library.custom_op("entropy_ext::token_moments", mutates_args=())
def token_moments(logp: Tensor, advantages: Tensor, mask: Tensor | None) -> Tensor:
    """float64 [12], see csrc/token_selection.h."""
    return native.token_moments(logp, advantages, mask)


@token_moments.register_fake
def _(logp: Tensor, advantages: Tensor, mask: Tensor | None) -> Tensor:
    check_tokens({"logp": logp, "advantages": advantages}, mask=mask)
    return logp.new_empty(native.MOMENT_SUMS, dtype=torch.float64)


@torch.library.custom_op("entropy_ext::merge_moments", mutates_args=())
def merge_moments(parts: Tensor) -> Tensor:
    """[n, 12] → [12], added in order."""
    return native.merge_moments(parts)


@merge_moments.register_fake
def _(parts: Tensor) -> Tensor:
    return parts.new_empty(native.MOMENT_SUMS)


@torch.library.custom_op("entropy_ext::covariance", mutates_args=())
def covariance(
    logp: Tensor, advantages: Tensor, mask: Tensor | None, sums: Tensor | None
) -> Tensor:
    """(logp − mean)(A − mean); the means from `sums`, or of these tokens."""
    if sums is None:
        sums = native.token_moments(logp, advantages, mask)
    return native.covariance(logp, advantages, mask, sums)


@covariance.register_fake
def _(logp: Tensor, advantages: Tensor, mask: Tensor | None, sums: Tensor | None) -> Tensor:
    check_tokens({"logp": logp, "advantages": advantages}, mask=mask)
    if sums is not None:
        native.check_sums(sums, logp)
    return logp.new_empty(logp.shape)


@torch.library.custom_op("entropy_ext::clip_cov", mutates_args=())
def clip_cov(
    cov: Tensor,
    mask: Tensor | None,
    clipped: Tensor | None,
    seed: Tensor,
    token_ids: Tensor | None,
    fraction: float,
    low: float,
    high: float,
) -> Tensor:
    """max(⌊fraction·N⌋, 1) random tokens with low < cov < high that are not clipped, bool."""
    return _random("cov", cov, mask, clipped, seed, token_ids, fraction, (low, high))


@clip_cov.register_fake
def _(
    cov: Tensor,
    mask: Tensor | None,
    clipped: Tensor | None,
    seed: Tensor,
    token_ids: Tensor | None,
    fraction: float,
    low: float,
    high: float,
) -> Tensor:
    check_tokens({"cov": cov}, mask=mask, flags={"clipped": clipped}, token_ids=token_ids)
    return cov.new_empty(cov.shape, dtype=torch.bool)


@torch.library.custom_op("entropy_ext::kl_cov", mutates_args=())
def kl_cov(cov: Tensor, mask: Tensor | None, token_ids: Tensor | None, fraction: float) -> Tensor:
    """The max(⌊fraction·N⌋, 1) largest, ties by token id, bool."""
    return native.select("cov", cov, mask, token_ids, count=Count.FLOOR, fraction=fraction)


@kl_cov.register_fake
def _(cov: Tensor, mask: Tensor | None, token_ids: Tensor | None, fraction: float) -> Tensor:
    check_tokens({"cov": cov}, mask=mask, token_ids=token_ids)
    return cov.new_empty(cov.shape, dtype=torch.bool)


@torch.library.custom_op("entropy_ext::top_entropy", mutates_args=())
def top_entropy(
    entropy: Tensor, mask: Tensor | None, token_ids: Tensor | None, fraction: float, rule: str
) -> Tensor:
    """The largest by the rule "exact" or "quantile", bool."""
    count = Count.CEIL if rule == "exact" else Count.QUANTILE
    return native.select("entropy", entropy, mask, token_ids, count=count, fraction=fraction)


@top_entropy.register_fake
def _(
    entropy: Tensor, mask: Tensor | None, token_ids: Tensor | None, fraction: float, rule: str
) -> Tensor:
    check_tokens({"entropy": entropy}, mask=mask, token_ids=token_ids)
    return entropy.new_empty(entropy.shape, dtype=torch.bool)


@torch.library.custom_op("entropy_ext::policy_selection", mutates_args=())
def policy_selection(
    logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    old_logp: Tensor | None,
    collision: Tensor | None,
    collision_logp: Tensor | None,
    sums: Tensor | None,
    seed: Tensor,
    token_ids: Tensor | None,
    clip_low: float,
    clip_high: float,
    fraction: float,
    low: float,
    high: float,
    form: str,
    lambda_min: float,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance, Clip-Cov selection and STEER weights, as policy_stats computes them."""
    if sums is None:
        sums = native.token_moments(logp, advantages, mask)
    cov = native.covariance(logp, advantages, mask, sums)
    clipped = None
    if old_logp is not None:
        clipped = native.clipped_tokens(logp, old_logp, advantages, mask, clip_low, clip_high)
    selected = _random("covariance", cov, mask, clipped, seed, token_ids, fraction, (low, high))
    weights = native_weights.steer_weights(
        logp,
        logp if old_logp is None else old_logp,
        entropy,
        advantages,
        mask,
        collision,
        collision_logp,
        None,
        form=form,
        weight_map="exp",
        lambda_min=lambda_min,
        lambda_max=1.0,
        floor=floor,
    )
    return cov, selected, weights


@policy_selection.register_fake
def _(
    logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    old_logp: Tensor | None,
    collision: Tensor | None,
    collision_logp: Tensor | None,
    sums: Tensor | None,
    seed: Tensor,
    token_ids: Tensor | None,
    clip_low: float,
    clip_high: float,
    fraction: float,
    low: float,
    high: float,
    form: str,
    lambda_min: float,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_tokens(
        {"logp": logp, "entropy": entropy, "advantages": advantages, "old_logp": old_logp},
        mask=mask,
        token_ids=token_ids,
    )
    return (
        logp.new_empty(logp.shape),
        logp.new_empty(logp.shape, dtype=torch.bool),
        logp.new_empty(logp.shape),
    )


def _random(
    name: str,
    cov: Tensor,
    mask: Tensor | None,
    clipped: Tensor | None,
    seed: Tensor,
    token_ids: Tensor | None,
    fraction: float,
    bounds: tuple[float, float],
) -> Tensor:
    """Clip-Cov's selection."""
    return native.select(
        name,
        cov,
        mask,
        token_ids,
        order=Order.RANDOM,
        count=Count.FLOOR,
        fraction=fraction,
        bounds=bounds,
        excluded=clipped,
        seed=seed,
    )
