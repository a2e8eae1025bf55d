"""Token losses: differentiable in what token_stats returns, one value per token, to be minimised.

A loss never reduces over tokens and never asks the device for a number. Its metrics are 0-d sums
over the unmasked tokens, so that those of micro-batches add up; divide by "tokens" for a mean.
"""

from entropy_ext.rl.losses.kl import KLEstimator, kl_penalty
from entropy_ext.rl.losses.ppo import ppo_clip
from entropy_ext.rl.losses.token_loss import TokenLoss, log_ratio

__all__ = ["KLEstimator", "TokenLoss", "kl_penalty", "log_ratio", "ppo_clip"]
