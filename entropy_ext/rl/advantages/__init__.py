"""Advantages: from rewards to a number per token. No gradient."""

from entropy_ext.rl.advantages.group import Singleton, group_mean, group_zscore

__all__ = ["Singleton", "group_mean", "group_zscore"]
