"""Entropy changes and STEER weights: checks, allocation and the calls of the compiled module."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext import _core
from entropy_ext.inputs_selection import check_range, check_stored, check_tokens, raise_bad_token
from entropy_ext.native import device_guard
from entropy_ext.token_arguments import addresses, contiguous, of_tokens, thread_count

__all__ = ["check_change", "entropy_change", "steer_weights"]

_INT64_MAX = 2**63 - 1
_FORMS = {"code": 0, "own_logit": 1, "exact": 2}
_MAPS = {"exp": 0, "linear": 1}


def entropy_change(
    logp: Tensor,
    entropy: Tensor,
    collision: Tensor,
    collision_logp: Tensor,
    advantages: Tensor,
    ratio: Tensor | None,
) -> Tensor:
    """−ρ·A·(S − Σ p²(ln p + H)), S = p(ln p + H); 0 where the collision is 0."""
    check_change(logp, entropy, collision, collision_logp, advantages, ratio)
    logp, entropy, collision, collision_logp, advantages, ratio = contiguous(
        logp, entropy, collision, collision_logp, advantages, ratio
    )
    change = torch.empty_like(logp)
    if logp.numel() == 0:
        return change
    with device_guard(logp):
        _core.entropy_change(
            **addresses(
                logp=logp,
                entropy=entropy,
                collision=collision,
                collision_logp=collision_logp,
                advantages=advantages,
                ratio=ratio,
                change=change,
            ),
            **of_tokens(logp),
            **thread_count(),
        )
    return change


def check_change(
    logp: Tensor,
    entropy: Tensor,
    collision: Tensor,
    collision_logp: Tensor,
    advantages: Tensor,
    ratio: Tensor | None,
) -> None:
    """Raise TypeError or ValueError unless the arguments of entropy_change fit together."""
    check_tokens(
        {
            "stats.logp": logp,
            "stats.entropy": entropy,
            "stats.collision": collision,
            "stats.collision_logp": collision_logp,
            "advantages": advantages,
            "ratio": ratio,
        }
    )


def steer_weights(
    logp: Tensor,
    old_logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    collision: Tensor | None,
    collision_logp: Tensor | None,
    scale: Tensor | None,
    *,
    form: str,
    weight_map: str,
    lambda_min: float,
    lambda_max: float,
    floor: float,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """STEER weights, 0 off the mask.

    Args:
        scale: float64 [2], (M_min, M_max), replaces the range of these tokens; or None.

    Raises:
        TypeError, ValueError: see check_tokens; on the CPU also an input of a valid token that is
            not finite (with a group, raised after this rank has taken part in finding the range),
            or a scale that is not a valid range.
    """
    values = {
        "logp": logp,
        "old_logp": old_logp,
        "entropy": entropy,
        "advantages": advantages,
        "collision": collision if form == "exact" else None,
        "collision_logp": collision_logp if form == "exact" else None,
    }
    check_stored(values | {"mask": mask, "weight_scale": scale})
    check_tokens(values, mask=mask)
    if scale is not None and not scale.is_cuda:
        check_range(scale)
    flat = dict(zip(values, contiguous(*values.values()), strict=True))
    mask = None if mask is None else mask.contiguous()
    extremes = logp.new_zeros(2, dtype=torch.int64)
    weights = torch.empty_like(flat["logp"])
    arguments = {
        **addresses(**flat, mask=mask, weights=weights),
        **of_tokens(logp),
        **thread_count(),
        "form": _FORMS[form],
        "weight_map": _MAPS[weight_map],
        "lambda_min": lambda_min,
        "lambda_max": lambda_max,
        "floor": floor,
    }
    bad = -1
    with device_guard(logp):
        if logp.numel() > 0:
            bad = _core.steer_range(**arguments, range=extremes.data_ptr())
        if scale is not None:
            # Non-negative floats are ordered like their bits; + 0 turns −0 into 0.
            least, greatest = (scale + 0.0).view(torch.int64).unbind()
            extremes = torch.stack([greatest, _INT64_MAX - least])
            if scale.is_cuda:
                # Where the CPU would have raised an error, M, which the weights hold so far,
                # becomes NaN.
                ordered = (scale[0] >= 0) & (scale[0] <= scale[1]) & (scale[1] < math.inf)
                weights.masked_fill_(~ordered, math.nan)
        elif group is not None:
            dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
        if bad >= 0:
            raise_bad_token(bad, values)
        if logp.numel() > 0:
            _core.steer_weights(**arguments, range=extremes.data_ptr())
    return weights
