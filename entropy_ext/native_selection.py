"""Moments and selection: checks, allocation and the calls of the compiled module.

As in native.py, no gradient is recorded; ops_selection.py registers the operators. With a group,
which no operator accepts, the ranks add up their counters between the calls.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext import _core
from entropy_ext.inputs_selection import (
    check_seed,
    check_stored,
    check_tokens,
    raise_bad_token,
)
from entropy_ext.native import device_guard
from entropy_ext.token_arguments import addresses, contiguous, of_tokens, place_of, thread_count

__all__ = [
    "MOMENT_SUMS",
    "Count",
    "Order",
    "check_sums",
    "clipped_tokens",
    "covariance",
    "merge_moments",
    "select",
    "token_moments",
]

MOMENT_SUMS: int = _core.moment_sums


class Order(IntEnum):
    """SelectOrder of csrc/token_selection.h."""

    LARGEST = 0
    RANDOM = 1


class Count(IntEnum):
    """SelectCount of csrc/token_selection.h."""

    FLOOR = 0
    CEIL = 1
    QUANTILE = 2


def token_moments(logp: Tensor, advantages: Tensor, mask: Tensor | None) -> Tensor:
    """The sums over the valid tokens, MomentSums of csrc/token_selection.h as float64 [12].

    Raises:
        TypeError, ValueError: see check_tokens; on the CPU also a valid token with a value that is
            not finite (on CUDA it is left out).
    """
    check_tokens({"logp": logp, "advantages": advantages}, mask=mask)
    if logp.numel() == 0:
        return logp.new_zeros(MOMENT_SUMS, dtype=torch.float64)
    sums = logp.new_empty(MOMENT_SUMS, dtype=torch.float64)
    logp, advantages, mask = contiguous(logp, advantages, mask)
    scratch = None
    if logp.is_cuda:
        blocks = _core.moment_blocks(logp.numel())
        scratch = logp.new_empty((blocks, MOMENT_SUMS), dtype=torch.float64)
    with device_guard(logp):
        bad = _core.token_moments(
            **addresses(logp=logp, advantages=advantages, mask=mask, sums=sums, scratch=scratch),
            **of_tokens(logp),
            **thread_count(),
        )
    if bad >= 0:
        raise_bad_token(bad, {"logp": logp, "advantages": advantages})
    return sums


def merge_moments(parts: Tensor) -> Tensor:
    """Adds the sums of several calls or ranks, float64 [n, 12] → [12], in the given order."""
    sums = parts.new_empty(MOMENT_SUMS)
    parts = parts.contiguous()
    with device_guard(parts):
        _core.merge_moments(
            count=parts.shape[0],
            **addresses(parts=parts, sums=sums),
            **place_of(parts),
        )
    return sums


def covariance(logp: Tensor, advantages: Tensor, mask: Tensor | None, sums: Tensor) -> Tensor:
    """(logp − mean)(A − mean) with the means of `sums`; 0 off the mask.

    Raises:
        TypeError, ValueError: as token_moments.
    """
    check_tokens({"logp": logp, "advantages": advantages}, mask=mask)
    check_sums(sums, logp)
    logp, advantages, mask, sums = contiguous(logp, advantages, mask, sums)
    result = torch.empty_like(logp)
    if logp.numel() == 0:
        return result
    with device_guard(logp):
        bad = _core.token_covariance(
            **addresses(
                logp=logp,
                advantages=advantages,
                mask=mask,
                sums=sums,
                covariance=result,
            ),
            **of_tokens(logp),
            **thread_count(),
        )
    if bad >= 0:
        raise_bad_token(bad, {"logp": logp, "advantages": advantages})
    return result


def check_sums(sums: Tensor, like: Tensor) -> None:
    """Raise ValueError unless sums look like those of token_moments and are on the right device."""
    if (sums.shape, sums.dtype) != (torch.Size([MOMENT_SUMS]), torch.float64):
        raise ValueError(
            f"moments: expected float64 sums of shape [{MOMENT_SUMS}], "
            f"got {sums.dtype} {list(sums.shape)}"
        )
    if sums.device != like.device:
        raise ValueError(f"moments: expected device {like.device}, got {sums.device}")


def clipped_tokens(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Where the PPO clip is active: −A·clip(ρ, 1 − low, 1 + high) > −A·ρ, bool."""
    check_tokens({"logp": logp, "old_logp": old_logp, "advantages": advantages}, mask=mask)
    logp, old_logp, advantages, mask = contiguous(logp, old_logp, advantages, mask)
    clipped = torch.empty_like(logp, dtype=torch.bool)
    if logp.numel() == 0:
        return clipped
    with device_guard(logp):
        _core.clipped_tokens(
            **addresses(
                logp=logp, old_logp=old_logp, advantages=advantages, mask=mask, clipped=clipped
            ),
            clip_low=clip_low,
            clip_high=clip_high,
            **of_tokens(logp),
            **thread_count(),
        )
    return clipped


def select(
    name: str,
    values: Tensor,
    mask: Tensor | None,
    token_ids: Tensor | None,
    *,
    order: Order = Order.LARGEST,
    count: Count,
    fraction: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    excluded: Tensor | None = None,
    seed: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The radix selection of csrc/token_selection.h, bool: one call, or one per pass with a group.

    Args:
        name: name of the values, for error messages.
        seed: 0-d int64; for Order.RANDOM.

    Raises:
        TypeError, ValueError: see check_tokens; on the CPU also NaN in a valid token, and token_ids
            that repeat, if the last chosen one is among them. With a group, these errors are raised
            after this rank has taken part in the whole selection.
    """
    check_stored({name: values, "mask": mask, "clipped": excluded, "token_ids": token_ids})
    check_tokens({name: values}, mask=mask, flags={"clipped": excluded}, token_ids=token_ids)
    if seed is not None:
        check_seed(seed, values.device)
    values, mask, excluded, token_ids = contiguous(values, mask, excluded, token_ids)
    tokens = values.numel()
    arguments = {**of_tokens(values), "order": int(order), "rule": int(count)}
    passes: int = _core.select_passes(
        dtype=arguments["dtype"],
        order=int(order),
        rule=int(count),
        count=tokens,
        has_ids=token_ids is not None,
    )
    sizes = [passes * _core.select_counters, (passes + 1) * _core.select_state_words]
    zeros = values.new_zeros(sum(sizes), dtype=torch.int64)  # one launch for both
    counters, states = zeros.split(sizes)
    counters = counters.view(passes, _core.select_counters)
    selected = torch.empty_like(values, dtype=torch.bool)
    scratch = [None, None, None] if values.is_cuda else _select_scratch(values)
    low, high = bounds
    arguments |= {
        **addresses(
            values=values,
            mask=mask,
            excluded=excluded,
            token_ids=token_ids,
            seed=seed,
            counters=counters,
            states=states,
            selected=selected,
            digits=scratch[0],
            agreeing=scratch[1],
            agreed=scratch[2],
        ),
        **thread_count(),
        "low": low,
        "high": high,
        "fraction": fraction,
    }
    bad = -1
    with device_guard(values):
        if group is None:
            if tokens > 0:
                bad = _core.select_steps(**arguments, first=0, last=passes + 1)
        else:
            for step in range(passes + 1):
                if tokens > 0:
                    bad = max(bad, _core.select_steps(**arguments, first=step, last=step + 1))
                if step < passes:
                    dist.all_reduce(counters[step], group=group)
    if bad >= 0:
        raise_bad_token(bad, {name: values}, nan=True)
    if values.device.type == "cpu" and tokens > 0 and count != Count.QUANTILE:
        _check_unique(counters, states.view(passes + 1, -1))
    return selected


def _check_unique(counters: Tensor, states: Tensor) -> None:
    """Raise ValueError if more tokens share the complete threshold key than were to be chosen.

    Such tokens have the same value and the same id. The counts are those of the whole group.
    """
    need, _, resolved, *_ = states[-2].tolist()
    if resolved:
        return  # by fewer digits, which left as many as were needed
    reached = counters[-1, :-1].cumsum(0)
    chosen = int(reached[reached >= need][0])
    if chosen > need:
        raise ValueError(
            "token_ids: expected unique ids, got one that several candidates share: "
            f"{chosen - need} too many would be chosen"
        )


def _select_scratch(values: Tensor) -> list[Tensor | None]:
    tokens = values.numel()
    ranges = -(-tokens // _core.select_range)
    return [
        values.new_empty(tokens, dtype=torch.int16),
        values.new_empty(tokens, dtype=torch.int16),
        values.new_empty(ranges, dtype=torch.int64),
    ]
