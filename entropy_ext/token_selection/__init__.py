"""From numbers per token: covariance, selections and weights. None of it is differentiable.

On CUDA nothing waits for the device, and every call can be captured in a CUDA graph. Results depend
only on (values, mask, token_ids, seed), not on the order of the tokens or their distribution over
ranks. Call the selectors with the tokens of a whole optimizer step, and slice the result for
micro-batches.
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
