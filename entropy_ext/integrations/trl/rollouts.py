"""Turns a generation of TRL's into a Rollout of this rank's responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.rl import Rollout

__all__ = ["response_mask", "rollout_of"]


def response_mask(batch: Mapping[str, Any]) -> Tensor:
    """[b, T] bool: the tokens that the policy wrote, without those of tools."""
    mask: Tensor = batch["completion_mask"]
    return (mask * batch["tool_mask"] if "tool_mask" in batch else mask).bool()


def rollout_of(
    output: Mapping[str, Any],
    stats: TokenStats,
    *,
    rewards: Tensor,
    fields: Mapping[str, Any],
    rank: int,
    group_size: int,
    max_length: int,
    step: int,
    progress: float,
) -> Rollout:
    """The responses as a `Rollout`.

    Args:
        output: result of `_generate_and_score_completions`.
        stats: [B, T], under the policy that wrote them.
        rewards: [B].
        fields: optional fields besides old_entropy.
        rank: rank of this process.
        group_size: responses per prompt, which are consecutive, also from one rank to the next.
        max_length, step, progress: see `Rollout`.
    """
    place = torch.arange(len(stats.logp), device=stats.logp.device) + rank * len(stats.logp)
    return Rollout(
        tokens=output["completion_ids"],
        mask=response_mask(output),
        rewards=rewards,
        prompt=place // group_size,
        old_logp=stats.logp,
        old_entropy=stats.entropy,
        max_length=max_length,
        step=step,
        progress=progress,
        **fields,
    )
