"""Everything the kernels compute, in plain PyTorch and in any float dtype.

The oracle of the tests (on float64 input), the baseline of the benchmarks, and a readable
statement of the numeric contract in docs/numerics.md. Never chosen silently in place of a kernel.

What works on tokens is computed in float64 whatever comes in, and returned in the dtype of the
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
