"""Token log-probability, entropy and selection over vocabulary logits, for LLM RL."""

from importlib.metadata import version

from entropy_ext.backend import backend_info
from entropy_ext.linear_head import linear_token_loss, linear_token_stats
from entropy_ext.policy_stats import PolicyStats, policy_stats
from entropy_ext.support import Support
from entropy_ext.token_selection import (
    CovarianceMoments,
    clip_cov,
    covariance,
    entropy_change,
    kl_cov,
    steer_weights,
    top_entropy,
)
from entropy_ext.token_stats import TokenStats, token_stats
from entropy_ext.vocab_parallel import vocab_parallel_token_stats
from entropy_ext.vocab_parallel_linear import vocab_parallel_linear_token_stats

__all__ = [
    "CovarianceMoments",
    "PolicyStats",
    "Support",
    "TokenStats",
    "backend_info",
    "clip_cov",
    "covariance",
    "entropy_change",
    "kl_cov",
    "linear_token_loss",
    "linear_token_stats",
    "policy_stats",
    "steer_weights",
    "token_stats",
    "top_entropy",
    "vocab_parallel_linear_token_stats",
    "vocab_parallel_token_stats",
]

__version__ = version("entropy_ext")
