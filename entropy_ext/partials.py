"""Partial statistics of a row from one shard of the vocabulary, and their merge over all shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from entropy_ext import native

__all__ = ["MergedRows", "merge_partials", "partials"]


class MergedRows(NamedTuple):
    """Statistics of whole rows, each [...] float64."""

    logp: Tensor
    entropy: Tensor
    lse: Tensor
    row_max: Tensor
    row_sum: Tensor
    """Σ exp((z − row_max)/τ)"""
    token_logit: Tensor
    """z[token]; NaN if no shard holds the token"""


def partials(logits: Tensor, local: Tensor, temperature: Tensor, mask: Tensor | None) -> Tensor:
    """[4, ...] float64: M = max z, Σ exp((z − M)/τ), entropy of these columns alone, and z[token].

    A shard with only −inf, or without columns, has M = −inf and Σ = 0. z[token] is NaN if another
    shard holds the token.

    Args:
        logits: [..., Vₛ], this shard's columns.
        local: [...] int64, the token's column in this shard; outside [0, Vₛ) if another shard has
            it.
        temperature, mask: as in `token_stats`.
    """
    columns = logits.shape[-1]
    found = torch.zeros(4, *local.shape, dtype=torch.float64, device=logits.device)
    if columns == 0:
        found[0], found[3] = -math.inf, math.nan
        return found
    held = (local >= 0) & (local < columns)
    stand_in = torch.where(held, local, 0)
    _, entropy, _, row_max, row_sum, _ = native.token_stats_forward(
        logits, stand_in, temperature, mask, False
    )
    token_logit = logits.gather(-1, stand_in[..., None]).squeeze(-1).double()
    for row, value in zip(found, (row_max, row_sum, entropy), strict=False):
        row.copy_(value)
    found[3] = torch.where(held, token_logit, math.nan)
    return found


def merge_partials(
    shards: Sequence[Tensor], temperature: Tensor, mask: Tensor | None
) -> MergedRows:
    """Statistics of whole rows from the `partials` of each shard, added in the given order.

    M = max Mₛ,  Σ = Σₛ fₛ with fₛ = Σₛ·exp((Mₛ − M)/τ),  wₛ = fₛ/Σ,  H = Σₛ wₛ(Hₛ − ln wₛ).
    """
    tau = temperature.double()
    row_max = torch.stack([shard[0] for shard in shards]).amax(0)
    shares = []
    for maximum, total, _, _ in shards:
        # Equal maxima first, because the difference of two infinities is NaN.
        shift = torch.where(maximum == row_max, 0.0, (maximum - row_max) / tau)
        shares.append((shift, total * shift.exp()))
    row_sum = torch.zeros_like(row_max)
    for _, share in shares:
        row_sum = row_sum + share
    # A sum of 0 means a row of only −inf, which has no softmax.
    log_sum = torch.where(row_sum == 0, math.nan, row_sum.log())

    entropy = torch.zeros_like(row_max)
    token_logit = torch.full_like(row_max, math.nan)
    for (shift, share), (_, total, own, picked) in zip(shares, shards, strict=True):
        log_weight = shift + total.log() - log_sum
        part = share / row_sum * (own - log_weight)
        entropy = entropy + torch.where(share == 0, 0.0, part)
        token_logit = torch.where(picked.isnan(), token_logit, picked)
    rows = MergedRows(
        logp=((token_logit - row_max) / tau - log_sum).clamp(max=0),
        entropy=(entropy + 0 * log_sum).clamp(min=0),
        lse=row_max / tau + log_sum,
        row_max=row_max,
        row_sum=row_sum,
        token_logit=token_logit,
    )
    if mask is None:
        return rows
    return MergedRows(*(torch.where(mask, x, 0.0) for x in rows))
