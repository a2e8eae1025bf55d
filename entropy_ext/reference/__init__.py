"""Everything that the kernels compute, in plain PyTorch and in any float dtype.

It is the oracle of the tests (on float64 input), a baseline of the benchmarks, and a readable
version of the numeric contract in docs/numerics.md. It never silently replaces a kernel.

Functions of numbers per token compute in float64 for any input dtype, and return the dtype of the
first argument.
"""

from entropy_ext.reference.moments import CovarianceMoments, clipped_tokens, covariance
from entropy_ext.reference.policy_stats import policy_stats
from entropy_ext.reference.selectors import (
    clip_cov,
    kl_cov,
    select_count,
    token_hash,
    top_entropy,
)
from entropy_ext.reference.steer import entropy_change, steer_weights
from entropy_ext.reference.token_stats import token_stats

__all__ = [
    "CovarianceMoments",
    "clip_cov",
    "clipped_tokens",
    "covariance",
    "entropy_change",
    "kl_cov",
    "policy_stats",
    "select_count",
    "steer_weights",
    "token_hash",
    "token_stats",
    "top_entropy",
]
