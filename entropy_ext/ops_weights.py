"""Entropy changes and STEER weights as torch operators, entropy_ext::steer_weights and so on.

Neither has a gradient; callers detach the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext import native_weights
from entropy_ext.inputs_selection import check_tokens

__all__ = ["entropy_change", "steer_weights"]


@torch.library.custom_op("entropy_ext::entropy_change", mutates_args=())
def entropy_change(
    logp: Tensor,
    entropy: Tensor,
    collision: Tensor,
    collision_logp: Tensor,
    advantages: Tensor,
    ratio: Tensor | None,
) -> Tensor:
    """−ρ·A·(S − Σ p²(ln p + H)), S = p(ln p + H)."""
    return native_weights.entropy_change(
        logp, entropy, collision, collision_logp, advantages, ratio
    )


@entropy_change.register_fake
def _(
    logp: Tensor,
    entropy: Tensor,
    collision: Tensor,
    collision_logp: Tensor,
    advantages: Tensor,
    ratio: Tensor | None,
) -> Tensor:
    native_weights.check_change(logp, entropy, collision, collision_logp, advantages, ratio)
    return logp.new_empty(logp.shape)


@torch.library.custom_op("entropy_ext::steer_weights", mutates_args=())
def steer_weights(
    logp: Tensor,
    old_logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    collision: Tensor | None,
    collision_logp: Tensor | None,
    scale: Tensor | None,
    form: str,
    weight_map: str,
    lambda_min: float,
    lambda_max: float,
    floor: float,
) -> Tensor:
    """STEER weights; scale, float64 [2], (M_min, M_max), replaces the range of these tokens."""
    return native_weights.steer_weights(
        logp,
        old_logp,
        entropy,
        advantages,
        mask,
        collision,
        collision_logp,
        scale,
        form=form,
        weight_map=weight_map,
        lambda_min=lambda_min,
        lambda_max=lambda_max,
        floor=floor,
    )


@steer_weights.register_fake
def _(
    logp: Tensor,
    old_logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    collision: Tensor | None,
    collision_logp: Tensor | None,
    scale: Tensor | None,
    form: str,
    weight_map: str,
    lambda_min: float,
    lambda_max: float,
    floor: float,
) -> Tensor:
    check_tokens(
        {
            "logp": logp,
            "old_logp": old_logp,
            "entropy": entropy,
            "advantages": advantages,
            "collision": collision,
            "collision_logp": collision_logp,
        },
        mask=mask,
    )
    return logp.new_empty(logp.shape)
