"""Selection of tokens in plain PyTorch: sort, count, keep the first.

With a group, each rank gathers the tokens of all ranks, selects among them and keeps its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.reference.moments import valid_tokens

__all__ = ["clip_cov", "kl_cov", "select_count", "token_hash", "top_entropy"]


def select_count(rule: Literal["floor", "ceil", "quantile"], fraction: float, n: Tensor) -> Tensor:
    """How many of n valid tokens a rule chooses, int64, if there are enough candidates."""
    size = n.double()
    if rule == "floor":
        k = (fraction * size).floor()
    elif rule == "ceil":
        k = (fraction * size + 0.9999).floor()
    else:
        k = size - ((1.0 - fraction) * (size - 1.0)).ceil()
    return torch.where(n > 0, k.clamp(min=1.0), 0.0).to(torch.int64)


def token_hash(seed: int | Tensor, token_ids: Tensor) -> Tensor:
    """Keys of (seed, token id), int64, whose signed order is the unsigned order in the kernels.

    The same 64-bit words as TokenHash in csrc/selection_math.h: int64 wraps alike.
    """
    seed = torch.as_tensor(seed, dtype=torch.int64, device=token_ids.device)
    first = _mix(seed + _signed(0x9E3779B97F4A7C15))
    second = _mix(first ^ _signed(0xD1B54A32D192ED03))
    return _mix(_mix(token_ids + first) ^ second) ^ _signed(1 << 63)


def clip_cov(
    cov: Tensor,
    mask: Tensor | None,
    *,
    fraction: float = 2e-4,
    bounds: tuple[float, float] = (1.0, 5.0),
    clipped: Tensor | None = None,
    seed: int | Tensor,
    token_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """max(⌊fraction·N⌋, 1) random tokens with low < cov < high that are not clipped."""
    low, high = bounds

    def select(cov: Tensor, valid: Tensor, ids: Tensor, clipped: Tensor) -> Tensor:
        cov = cov.double()  # as the bounds are
        inside = (cov > low if low > -math.inf else True) & ~torch.isnan(cov)
        inside &= cov < high if high < math.inf else True
        k = select_count("floor", fraction, valid.sum())
        return _first(k, torch.argsort(token_hash(seed, ids)), valid & ~clipped & inside)

    return _selected(select, cov, mask, token_ids, group, clipped)


def kl_cov(
    cov: Tensor,
    mask: Tensor | None,
    *,
    fraction: float = 2e-3,
    token_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The max(⌊fraction·N⌋, 1) tokens of greatest covariance, ties by token id."""

    def select(cov: Tensor, valid: Tensor, ids: Tensor, _: Tensor) -> Tensor:
        k = select_count("floor", fraction, valid.sum())
        return _first(k, _descending(cov, ids), valid & ~torch.isnan(cov))

    return _selected(select, cov, mask, token_ids, group)


def top_entropy(
    entropy: Tensor,
    mask: Tensor | None,
    *,
    fraction: float = 0.2,
    rule: Literal["exact", "quantile"] = "exact",
    token_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The max(⌊fraction·N + 0.9999⌋, 1) greatest, ties by token id; or, by the quantile rule, all
    that are at least the (1 − fraction)-quantile."""

    def select(entropy: Tensor, valid: Tensor, ids: Tensor, _: Tensor) -> Tensor:
        candidate = valid & ~torch.isnan(entropy)
        order = _descending(entropy, ids)
        k = select_count("ceil" if rule == "exact" else "quantile", fraction, valid.sum())
        chosen = _first(k, order, candidate)
        if rule == "exact":
            return chosen
        kept = torch.where(chosen, entropy, torch.inf)
        return candidate & (entropy >= torch.cat([kept, kept.new_full((1,), torch.inf)]).amin())

    return _selected(select, entropy, mask, token_ids, group)


def _selected(
    select: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    values: Tensor,
    mask: Tensor | None,
    token_ids: Tensor | None,
    group: dist.ProcessGroup | None,
    excluded: Tensor | None = None,
) -> Tensor:
    """Call `select` on the flat tokens (with a group, of all ranks); returns this rank's part."""
    count = values.numel()
    ids = torch.arange(count, device=values.device) if token_ids is None else token_ids
    out = ~valid_tokens(None, values) if excluded is None else excluded
    parts = [t.detach().reshape(-1) for t in (values, valid_tokens(mask, values), ids, out)]
    begin = 0
    if group is not None:
        ranks: list[list[Tensor]] = [[] for _ in range(dist.get_world_size(group))]
        dist.all_gather_object(ranks, parts, group=group)
        begin = sum(rank[0].numel() for rank in ranks[: dist.get_rank(group)])
        parts = [torch.cat(column).to(values.device) for column in zip(*ranks, strict=True)]
    return select(*parts)[begin : begin + count].view(values.shape)


def _first(k: Tensor, order: Tensor, candidate: Tensor) -> Tensor:
    """The first k candidates in the given order of positions, as a mask."""
    in_order = candidate[order]
    chosen = in_order & (in_order.cumsum(0) <= k)
    return torch.empty_like(candidate).scatter_(0, order, chosen)


def _descending(values: Tensor, ids: Tensor) -> Tensor:
    """Positions by value, descending, then by id, ascending."""
    by_id = torch.argsort(ids, stable=True)
    return by_id[torch.argsort(values[by_id], descending=True, stable=True)]


def _mix(x: Tensor) -> Tensor:
    """Stafford's variant 13 of the MurmurHash3 finaliser, on 64-bit words."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift by `bits`."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
