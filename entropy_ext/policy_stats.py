"""policy_stats: statistics, covariance, Clip-Cov selection and STEER weights in one call."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from entropy_ext import ops_selection
from entropy_ext.inputs_selection import (
    check_bounds,
    check_choice,
    check_fraction,
    check_number,
    check_tensors,
    seed_tensor,
)
from entropy_ext.token_selection.moments import CovarianceMoments, sums_of
from entropy_ext.token_stats import token_stats

__all__ = ["PolicyStats", "policy_stats"]


class PolicyStats(NamedTuple):
    """The fields of TokenStats, and the selection and weights computed from them, each [...].

    Gradient flows to the logits through logp, entropy and lse only. The four extras are None unless
    steer_form="exact". The two fields of a support are always None, because policy_stats takes
    none.
    """

    logp: Tensor
    """ln p[token], nats"""
    entropy: Tensor
    """−Σ p ln p, nats"""
    lse: Tensor
    """ln Σ exp(z/τ), nats"""
    collision: Tensor | None
    """Σ p²"""
    collision_logp: Tensor | None
    """Σ p² ln p, nats"""
    varentropy: Tensor | None
    """Var_p(ln p), nats²"""
    max_logp: Tensor | None
    """max ln p, nats"""
    support_logp: Tensor | None
    support_entropy: Tensor | None
    covariance: Tensor
    """(logp − mean)(A − mean), nats"""
    clip_cov: Tensor
    """bool, True where Clip-Cov selects"""
    steer_weight: Tensor
    """STEER's loss weight"""


def policy_stats(
    logits: Tensor,
    tokens: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    *,
    old_logp: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    moments: CovarianceMoments | None = None,
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
    """token_stats, covariance, clip_cov and steer_weights in one read of the logits.

    Tokens where the PPO clip is active, −A·clip(ρ, 1 − clip_low, 1 + clip_high) > −A·ρ, are not
    candidates of Clip-Cov. STEER uses the entropy of these logits and the exponential map.

    Gradient flows to logits through logp, entropy and lse only. "The Entropy Mechanism of
    Reinforcement Learning for Reasoning Language Models" (arXiv 2505.22617), "Rethinking Entropy
    Interventions in RLVR" (arXiv 2510.10150).

    Args:
        logits: [..., V], see token_stats.
        tokens: [...] int64.
        advantages: [...] float32 (float64 for float64 logits).
        mask: [...] bool, or None: all tokens are valid.
        old_logp: [...], nats, dtype of advantages; None: ρ = 1 and nothing is clipped.
        temperature: τ > 0, a number or [...].
        moments: source of the means for the covariance, see covariance().
        clip_low, clip_high: the PPO clip is [1 − clip_low, 1 + clip_high]; an infinite clip_high
            turns the upper bound off.
        fraction, bounds, seed, token_ids: see clip_cov().
        steer_form, lambda_min, floor: see steer_weights().

    Returns:
        PolicyStats of [...] tensors.

    Raises:
        TypeError, ValueError: see the four functions.
    """
    check_tensors({"advantages": advantages}, old_logp=old_logp, token_ids=token_ids)
    check_fraction(fraction)
    check_number("clip_low", clip_low, at_least=0.0)
    check_number("clip_high", clip_high, at_least=0.0, finite=False)
    check_number("floor", floor, at_least=0.0)
    check_number("lambda_min", lambda_min, at_most=1.0)
    if not lambda_min > 0.0:
        raise ValueError(f"lambda_min: expected a number above 0, got {lambda_min}")
    low, high = check_bounds(bounds)
    check_choice("steer_form", steer_form, ("code", "own_logit", "exact"))
    extras = steer_form == "exact"
    stats = token_stats(logits, tokens, temperature=temperature, mask=mask, extras=extras)
    cov, selected, weight = ops_selection.policy_selection(
        stats.logp.detach(),
        stats.entropy.detach(),
        advantages.detach(),
        mask,
        None if old_logp is None else old_logp.detach(),
        stats.collision,
        stats.collision_logp,
        sums_of(moments),
        seed_tensor(seed, logits.device),
        token_ids,
        clip_low,
        clip_high,
        fraction,
        low,
        high,
        steer_form,
        lambda_min,
        floor,
    )
    return PolicyStats(*stats, covariance=cov, clip_cov=selected, steer_weight=weight)
