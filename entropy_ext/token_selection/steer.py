"""How much each token changes the entropy, and STEER's weights, which decrease with that change."""

from __future__ import annotations

from numbers import Real
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext import native_weights, ops_weights
from entropy_ext.inputs_selection import check_choice, check_number, check_tensors
from entropy_ext.token_stats import TokenStats

__all__ = ["entropy_change", "steer_weights"]


def entropy_change(stats: TokenStats, advantages: Tensor, *, ratio: Tensor | None = None) -> Tensor:
    """The exact first-order change of each token's entropy under one policy-gradient step.

    ΔHᵢ = −ρA·[Sₐ − Σⱼ pⱼSⱼ],  Sⱼ = pⱼ(ln pⱼ + H),  Σⱼ pⱼSⱼ = Σ p² ln p + H·Σ p²,

    per unit step along ρA·(eₐ − p) on the scaled logits z/τ, a the token. No gradient flows.
    "Rethinking Entropy Interventions in RLVR" (arXiv 2510.10150) estimates the same quantity.

    Args:
        stats: TokenStats with extras, [...].
        advantages: [...], dtype of stats.logp.
        ratio: ρ [...], dtype of stats.logp; None: 1.

    Returns:
        [...] in nats, dtype of stats.logp; 0 where the mask of the stats was False, NaN where an
        input is NaN. A token of probability 0 has S = 0.

    Raises:
        TypeError, ValueError: stats without extras; an argument of the wrong dtype, shape, device.
    """
    fields = ("logp", "entropy", "collision", "collision_logp")
    if not all(hasattr(stats, field) for field in fields):
        raise TypeError(f"stats: expected TokenStats, got {type(stats).__name__}")
    if stats.collision is None or stats.collision_logp is None:
        raise ValueError("stats: expected token_stats(..., extras=True), got no collision")
    check_tensors(
        {f"stats.{field}": getattr(stats, field) for field in fields} | {"advantages": advantages},
        ratio=ratio,
    )
    change: Tensor = ops_weights.entropy_change(
        stats.logp.detach(),
        stats.entropy.detach(),
        stats.collision.detach(),
        stats.collision_logp.detach(),
        advantages.detach(),
        None if ratio is None else ratio.detach(),
    )
    return change


def steer_weights(
    logp: Tensor,
    old_logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    *,
    form: Literal["code", "own_logit", "exact"] = "code",
    weight_map: Literal["exp", "linear"] = "exp",
    lambda_min: float = 0.8,
    lambda_max: float = 1.0,
    floor: float = 0.02,
    weight_scale: float | Tensor | None = None,
    collision: Tensor | None = None,
    collision_logp: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """STEER's loss weights: the more a token changes the entropy, the smaller its weight.

    With M = |Ω|, and its extremes taken over the valid tokens,
    exp:    w = clamp(exp(ln λ_min·M/max(M_max, floor)), λ_min, 1);
    linear: w = λ_max − (M − M_min)(λ_max − λ_min)/(M_max − M_min), the midpoint if M_max = M_min.

    "code":      Ω = A/π_old·x(1 − x)(ln x + H), x = π clamped to [1e-8, 1 − 1e-8], π_old to
                 [1e-8, 1]: the authors' code, one factor π short of the next;
    "own_logit": Ω = ρA·S(1 − π), S = π(ln π + H): the token's own logit alone;
    "exact":     Ω = ρA·[S − Σⱼ pⱼSⱼ] = −entropy_change(). ρ = exp(logp − old_logp), the log-ratio
                 clamped to ±20.

    No gradient flows. "Rethinking Entropy Interventions in RLVR" (arXiv 2510.10150). The authors'
    defaults are λ = (0.8, 1.0) for exp and (0.8, 1.2) for linear, with the range over a
    micro-batch.

    Args:
        logp: [...] float32 or float64, nats, of the policy being trained.
        old_logp: [...], nats, of the policy that sampled.
        entropy: [...], nats, over the full vocabulary; the authors use that of the sampling policy.
        advantages: [...].
        mask: [...] bool, or None: all tokens are valid.
        form: "code", "own_logit" or "exact", the form of Ω.
        weight_map: "exp" or "linear".
        lambda_min: the smallest weight; above 0 for exp.
        lambda_max: the largest weight of the linear map.
        floor: lower bound on M_max in the exponential map, so that weights stay near 1 if all M are
            small.
        weight_scale: replaces the range of these tokens: M_max, a number or a 0-d tensor (M_min is
            then 0), or a [2] tensor (M_min, M_max); 0 ≤ M_min ≤ M_max < ∞.
        collision, collision_logp: [...], Σ p² and Σ p² ln p, for the form "exact".
        group: process group over which the range is taken; all its ranks must call this function.

    Returns:
        [...], dtype of logp; 0 off the mask.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape, device or range; on the CPU
            also an input of a valid token that is not finite. On CUDA the weight of such a token is
            NaN, and it is left out of the range. A weight_scale tensor that is out of range raises
            an error on the CPU; on CUDA it makes the weight of every valid token NaN.
    """
    check_choice("form", form, ("code", "own_logit", "exact"))
    check_choice("weight_map", weight_map, ("exp", "linear"))
    check_tensors(
        {"logp": logp, "old_logp": old_logp, "entropy": entropy, "advantages": advantages},
        mask=mask,
    )
    if form == "exact":
        check_tensors({"collision": collision, "collision_logp": collision_logp})
    else:
        collision = collision_logp = None
    check_number("floor", floor, at_least=0.0)
    check_number("lambda_max", lambda_max, at_least=0.0)
    check_number("lambda_min", lambda_min, at_most=1.0 if weight_map == "exp" else lambda_max)
    if weight_map == "exp" and not lambda_min > 0.0:
        raise ValueError(f"lambda_min: expected a number above 0 for 'exp', got {lambda_min}")
    arguments = (
        logp.detach(),
        old_logp.detach(),
        entropy.detach(),
        advantages.detach(),
        mask,
        None if collision is None else collision.detach(),
        None if collision_logp is None else collision_logp.detach(),
        None if weight_scale is None else _extremes(weight_scale, logp.device),
    )
    if group is None:
        weights: Tensor = ops_weights.steer_weights(
            *arguments, form, weight_map, lambda_min, lambda_max, floor
        )
        return weights
    return native_weights.steer_weights(
        *arguments,
        form=form,
        weight_map=weight_map,
        lambda_min=lambda_min,
        lambda_max=lambda_max,
        floor=floor,
        group=group,
    )


def _extremes(weight_scale: float | Tensor, device: torch.device) -> Tensor:
    """(M_min, M_max) as float64 [2] on the device; M_min is 0 if it is not given."""
    if not isinstance(weight_scale, Tensor):
        if not isinstance(weight_scale, Real):
            raise TypeError(
                f"weight_scale: expected a number or a tensor, got {type(weight_scale).__name__}"
            )
        check_number("weight_scale", weight_scale, at_least=0.0)
        weight_scale = torch.ones((), dtype=torch.float64, device=device) * weight_scale
    if weight_scale.device != device:
        raise ValueError(f"weight_scale: expected device {device}, got {weight_scale.device}")
    scale = weight_scale.detach().double()
    if scale.shape == (2,):
        return scale
    if scale.ndim == 0:
        return torch.stack([torch.zeros_like(scale), scale])
    raise ValueError(
        f"weight_scale: expected a number or a tensor of shape [] or [2], got {list(scale.shape)}"
    )
