"""Primitives of reinforcement learning with verifiable rewards: pure functions on [B, T].

The modules `advantages`, `losses`, `aggregate`, `rewards`, `controllers` and `diagnostics` group
them by kind; this package exports what every recipe and trainer uses.
"""

from entropy_ext.rl import (
    advantages,
    aggregate,
    controllers,
    curriculum,
    diagnostics,
    importance,
    losses,
    rewards,
    semantic_entropy,
)
from entropy_ext.rl.advantages import group_mean, group_zscore
from entropy_ext.rl.aggregate import Aggregation, count
from entropy_ext.rl.groups import Groups
from entropy_ext.rl.losses import TokenLoss, log_ratio, ppo_clip
from entropy_ext.rl.rewards import soft_overlong
from entropy_ext.rl.rollout import Rollout

__all__ = [
    "Aggregation",
    "Groups",
    "Rollout",
    "TokenLoss",
    "advantages",
    "aggregate",
    "controllers",
    "count",
    "curriculum",
    "diagnostics",
    "group_mean",
    "group_zscore",
    "importance",
    "log_ratio",
    "losses",
    "ppo_clip",
    "rewards",
    "semantic_entropy",
    "soft_overlong",
]
