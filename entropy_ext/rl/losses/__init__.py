"""Token losses: differentiable in what token_stats returns, one value per token, to be minimised.

A loss never reduces over tokens and never waits for the device. Its metrics are 0-d sums over the
unmasked tokens, so that those of micro-batches add up; divide by "tokens" for a mean.
"""

from entropy_ext.rl.losses.bcpg import bcpg_nsa
from entropy_ext.rl.losses.ce_gppo import ce_gppo
from entropy_ext.rl.losses.cispo import cispo
from entropy_ext.rl.losses.covariance import CovPenalty, clip_cov, kl_cov
from entropy_ext.rl.losses.dcpo import dcpo, dcpo_bounds
from entropy_ext.rl.losses.dppo import Divergence, dppo
from entropy_ext.rl.losses.entropic import confidence_pull
from entropy_ext.rl.losses.erc import entropy_ratio_mask
from entropy_ext.rl.losses.fipo import fipo, future_weight
from entropy_ext.rl.losses.kl import KLEstimator, kl_penalty
from entropy_ext.rl.losses.likelihood import positive_nll
from entropy_ext.rl.losses.luffy import mixed_policy
from entropy_ext.rl.losses.masking import off_policy_sequence_mask
from entropy_ext.rl.losses.minirl import minirl
from entropy_ext.rl.losses.ppo import held_by_clip, ppo_clip
from entropy_ext.rl.losses.reinforce import dro, reinforce
from entropy_ext.rl.losses.sapo import sapo
from entropy_ext.rl.losses.sent import sent, sent_penalty
from entropy_ext.rl.losses.sequence_ratio import gmpo, gspo, vespo
from entropy_ext.rl.losses.token_loss import TokenLoss, log_ratio
from entropy_ext.rl.losses.value import value_loss

__all__ = [
    "CovPenalty",
    "Divergence",
    "KLEstimator",
    "TokenLoss",
    "bcpg_nsa",
    "ce_gppo",
    "cispo",
    "clip_cov",
    "confidence_pull",
    "dcpo",
    "dcpo_bounds",
    "dppo",
    "dro",
    "entropy_ratio_mask",
    "fipo",
    "future_weight",
    "gmpo",
    "gspo",
    "held_by_clip",
    "kl_cov",
    "kl_penalty",
    "log_ratio",
    "minirl",
    "mixed_policy",
    "off_policy_sequence_mask",
    "positive_nll",
    "ppo_clip",
    "reinforce",
    "sapo",
    "sent",
    "sent_penalty",
    "value_loss",
    "vespo",
]
