"""Numbers per token → covariance, selections and weights. Never differentiable.

On CUDA nothing waits for the device, and all of it can be captured in a CUDA graph. What comes out
depends on (values, mask, token_ids, seed) alone: not on the order of the tokens, nor on how they
are spread over ranks. Selectors want the tokens of a whole optimizer step; micro-batches slice the
result.
"""

from entropy_ext.token_selection.moments import CovarianceMoments, covariance
from entropy_ext.token_selection.selectors import clip_cov, kl_cov, top_entropy
from entropy_ext.token_selection.steer import entropy_change, steer_weights

__all__ = [
    "CovarianceMoments",
    "clip_cov",
    "covariance",
    "entropy_change",
    "kl_cov",
    "steer_weights",
    "top_entropy",
]
