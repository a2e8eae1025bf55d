"""Advantages: from rewards to one number per token. No gradient."""

from entropy_ext.rl.advantages.baselines import opo
from entropy_ext.rl.advantages.entropy_neutral import entropy_neutral
from entropy_ext.rl.advantages.gae import (
    decoupled_gae,
    gae,
    length_adaptive_decay,
    terminal_rewards,
)
from entropy_ext.rl.advantages.gpg import gpg
from entropy_ext.rl.advantages.group import Singleton, group_mean, group_zscore
from entropy_ext.rl.advantages.leave_one_out import leave_one_out
from entropy_ext.rl.advantages.pass_at_k import pass_at_k_advantage
from entropy_ext.rl.advantages.psr_nsr import psr_nsr
from entropy_ext.rl.advantages.unlikeliness import (
    UnlikelinessForm,
    unlikeliness,
    unlikeliness_reward,
)
from entropy_ext.rl.advantages.whiten import batch_whiten

__all__ = [
    "Singleton",
    "UnlikelinessForm",
    "batch_whiten",
    "decoupled_gae",
    "entropy_neutral",
    "gae",
    "gpg",
    "group_mean",
    "group_zscore",
    "leave_one_out",
    "length_adaptive_decay",
    "opo",
    "pass_at_k_advantage",
    "psr_nsr",
    "terminal_rewards",
    "unlikeliness",
    "unlikeliness_reward",
]
