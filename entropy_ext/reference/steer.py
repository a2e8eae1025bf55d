"""The change of entropy caused by each token, and STEER weights, in plain PyTorch."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.reference.moments import masked, valid_tokens
from entropy_ext.token_stats import TokenStats

__all__ = ["entropy_change", "steer_weights"]


def entropy_change(stats: TokenStats, advantages: Tensor, *, ratio: Tensor | None = None) -> Tensor:
    """−ρ·A·[S − Σⱼ pⱼSⱼ], Sⱼ = pⱼ(ln pⱼ + H); 0 in masked rows, whose collision is 0."""
    assert stats.collision is not None
    assert stats.collision_logp is not None
    valid = stats.collision != 0
    logp, entropy = masked(stats.logp, valid), masked(stats.entropy, valid)
    p = logp.exp()
    sensitivity = torch.where(p > 0, p * (logp + entropy), 0.0)
    mean = masked(stats.collision_logp, valid) + entropy * masked(stats.collision, valid)
    step = masked(advantages, valid)
    if ratio is not None:
        step = step * masked(ratio, valid)
    return torch.where(valid, -step * (sensitivity - mean), 0.0).to(stats.logp.dtype)


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
    """exp(ln λ_min·M/max(M_max, floor)) or the line through (M_min, λ_max) and (M_max, λ_min)."""
    valid = valid_tokens(mask, logp)
    x, x_old, h, a = (masked(t, valid) for t in (logp, old_logp, entropy, advantages))
    if form == "code":
        p, p_old = x.exp().clamp(1e-8, 1.0 - 1e-8), x_old.exp().clamp(1e-8, 1.0)
        change = a / p_old * p * (1.0 - p) * (p.log() + h)
    else:
        p, ratio = x.exp(), (x - x_old).clamp(-20.0, 20.0).exp()
        sensitivity = p * (x + h)
        if form == "own_logit":
            change = ratio * a * sensitivity * (1.0 - p)
        else:
            assert collision is not None
            assert collision_logp is not None
            mean = masked(collision_logp, valid) + h * masked(collision, valid)
            change = ratio * a * (sensitivity - mean)
    size = change.abs()

    if weight_scale is not None:
        scale = torch.as_tensor(weight_scale, dtype=torch.float64, device=logp.device).detach()
        least, greatest = scale.unbind() if scale.ndim else (torch.zeros_like(scale), scale)
    else:
        counted = valid & size.isfinite()
        # −M, so that one maximum serves both ends; one entry more, for the empty batch.
        lower = torch.where(counted, -size, -torch.inf).flatten()
        upper = torch.where(counted, size, 0.0).flatten()
        extremes = torch.stack(
            [
                torch.cat([lower, lower.new_full((1,), -torch.inf)]).amax(),
                torch.cat([upper, upper.new_zeros(1)]).amax(),
            ]
        )
        if group is not None:
            dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
        least, greatest = -extremes[0], extremes[1]

    if weight_map == "exp":
        scale = greatest.clamp(min=floor)
        rate = torch.where(scale > 0.0, math.log(lambda_min) / scale, 0.0)
        weight = (rate * size).exp().clamp(lambda_min, 1.0)
    else:
        spread = torch.where(greatest > least, greatest - least, 1.0)
        line = lambda_max - (size - least) * (lambda_max - lambda_min) / spread
        middle = 0.5 * (lambda_min + lambda_max)
        weight = torch.where(greatest > least, line.clamp(lambda_min, lambda_max), middle)
    return torch.where(valid, weight, 0.0).to(logp.dtype)
