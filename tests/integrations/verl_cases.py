"""Random batches in verl's terms, and its actor's configuration."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# verl draws the prompts itself: without a curriculum these two can run.
UNSTAGED: dict[str, dict[str, Any]] = {"sent": {"stages": 1}, "advanced": {"stages": 1}}


class Batch(NamedTuple):
    """B responses; the mask has rows of every length, one of them empty if asked for."""

    logp: Tensor
    old_logp: Tensor
    advantages: Tensor
    mask: Tensor


def batch(seed: int, *, rows: int = 8, width: int = 12, spread: float = 0.3) -> Batch:
    """Ratios on both sides of every usual bound; one advantage per response; padding is 0."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(width) < torch.randint(3, width + 1, (rows, 1), generator=draw)
    old_logp = -torch.rand(rows, width, generator=draw) * 3 - 0.01
    logp = old_logp + spread * torch.randn(rows, width, generator=draw)
    advantages = torch.randn(rows, 1, generator=draw).expand(rows, width)
    return Batch(
        *(torch.where(mask, value, 0.0) for value in (logp.clamp(max=-1e-3), old_logp, advantages)),
        mask,
    )


def actor_config(loss_mode: str, **settings: Any) -> Any:
    """verl's own configuration class; policy-loss settings start with `policy_loss_`."""
    from verl.workers.config import ActorConfig
    from verl.workers.config.actor import PolicyLossConfig

    inner = {
        name.removeprefix("policy_loss_"): settings.pop(name)
        for name in list(settings)
        if name.startswith("policy_loss_")
    }
    return ActorConfig(
        strategy="fsdp",
        rollout_n=4,
        ppo_micro_batch_size_per_gpu=2,
        policy_loss=PolicyLossConfig(loss_mode=loss_mode, **inner),
        **settings,
    )
