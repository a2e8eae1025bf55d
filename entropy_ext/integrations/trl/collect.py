"""Turns one generation of TRL's into the data that a recipe learns from, alike on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes import Recipe, Targets
from entropy_ext.rl import Rollout

__all__ = ["Collected", "collect", "gathered", "joined", "stats_rows"]


@dataclass(frozen=True)
class Collected:
    """This rank's responses, ready to learn from."""

    rollout: Rollout
    """with shaped rewards; responses that were dropped have no token in the mask"""
    targets: Targets
    stats: TokenStats
    """under the policy that wrote the responses, [B, T] each"""
    advantages: list[float]
    """for the responses of all ranks, the mean over the tokens of each"""
    metrics: dict[str, float]
    """over all ranks"""


@torch.no_grad()
def collect(
    recipe: Recipe, rollout: Rollout, scored: Tensor, stats: TokenStats, accelerator: Accelerator
) -> Collected:
    """Calls the recipe's shape_rewards, keep and targets on the responses of all ranks.

    A group may be spread over ranks, so every rank does this for all responses and keeps its own.

    Args:
        recipe: the recipe whose hooks are called.
        rollout: this rank's B responses; the same number on every rank.
        scored: [B] bool: at least one reward function gave a reward. Others are removed from their
            group.
        stats: [B, T], of the rollout.
        accelerator: of the trainer.
    """
    whole = gathered(rollout, accelerator)
    answered = accelerator.gather(scored.to(torch.uint8)).bool().nonzero().squeeze(1)
    rewards = whole.rewards.clone()
    advantages = torch.zeros_like(whole.old_logp)
    kept = torch.zeros_like(whole.prompt, dtype=torch.bool)
    metrics = _metrics(whole.rows(answered))
    if len(answered) > 0:
        known = whole.rows(answered)
        known = known.replace(rewards=recipe.shape_rewards(known))
        chosen = recipe.keep(known)
        rewards = rewards.to(known.rewards.dtype)
        rewards[answered] = known.rewards
        kept[answered] = chosen
        if chosen.any():
            targets = recipe.targets(known.rows(chosen)).advantages
            advantages = advantages.to(targets.dtype)
            advantages[kept] = targets
    metrics["kept"] = kept.float().mean().item()
    batch, width = rollout.mask.shape
    start = accelerator.process_index * batch
    own = slice(start, start + batch)
    per_response = advantages.sum(-1) / whole.lengths.clamp(min=1)
    return Collected(
        rollout.replace(rewards=rewards[own], mask=rollout.mask & kept[own, None]),
        Targets(advantages[own, :width].contiguous()),
        stats,
        per_response.tolist(),
        metrics,
    )


def gathered(rollout: Rollout, accelerator: Accelerator) -> Rollout:
    """The responses of all ranks in rank order, padded to the same length."""
    if accelerator.num_processes == 1:
        return rollout
    changes: dict[str, Any] = {}
    for field in fields(rollout):
        value = getattr(rollout, field.name)
        if isinstance(value, Tensor):
            # Not every backend supports bool.
            sent = value.to(torch.uint8) if value.dtype == torch.bool else value
            if value.ndim == 2:
                sent = accelerator.pad_across_processes(sent, dim=1)
            changes[field.name] = accelerator.gather(sent).to(value.dtype)
    if rollout.answers is not None:
        changes["answers"] = gather_object(list(rollout.answers))
    return rollout.replace(**changes)


def stats_rows(stats: TokenStats, index: Tensor) -> TokenStats:
    """The responses at `index`, for those statistics that are not None."""
    return TokenStats._make(None if value is None else value[index] for value in stats)


def _metrics(rollout: Rollout) -> dict[str, float]:
    """Metrics for a recipe's `after_step`, of the responses as they were sampled."""
    tokens = rollout.mask.sum().clamp(min=1)
    metrics = {
        "reward": rollout.rewards.mean(),
        "length": rollout.lengths.float().mean(),
    }
    if rollout.old_entropy is not None:
        entropy = torch.where(rollout.mask, rollout.old_entropy, 0.0)
        metrics["entropy"] = entropy.sum() / tokens
    if rollout.ref_logp is not None:
        difference = torch.where(rollout.mask, rollout.ref_logp - rollout.old_logp, 0.0)
        metrics["kl_reference"] = (difference.expm1() - difference).sum() / tokens
    return {name: value.item() for name, value in metrics.items()}


def joined(parts: Sequence[TokenStats]) -> TokenStats:
    """The statistics of several batches as one."""
    return TokenStats._make(
        None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True)
    )
