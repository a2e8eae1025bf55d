"""Primitives of reinforcement learning with verifiable rewards: pure functions on [B, T]."""

from entropy_ext.rl.advantages import group_mean, group_zscore
from entropy_ext.rl.aggregate import Aggregation, aggregate, count
from entropy_ext.rl.groups import Groups
from entropy_ext.rl.losses import TokenLoss, log_ratio, ppo_clip
from entropy_ext.rl.rewards import soft_overlong
from entropy_ext.rl.rollout import Rollout

__all__ = [
    "Aggregation",
    "Groups",
    "Rollout",
    "TokenLoss",
    "aggregate",
    "count",
    "group_mean",
    "group_zscore",
    "log_ratio",
    "ppo_clip",
    "soft_overlong",
]
