"""The probability that at least one of k samples is right."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor

__all__ = ["pass_at_k"]


@torch.no_grad()
def pass_at_k(samples: Tensor, successes: Tensor, k: int) -> Tensor:
    """Unbiased estimate of the probability that at least one of k samples is right.

    1 − C(n − c, k)/C(n, k) = 1 − Π_{j<k} (n − c − j)/(n − j), for c right ones among n ≥ k.

    "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374, eq. 1).

    Args:
        samples: [...] int64, n.
        successes: [...] int64, c, at most n.
        k: ≥ 1.

    Returns:
        [...] float64; NaN where n < k, for which there is no unbiased estimate.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_tensor("samples", samples, dtype=torch.int64)
    check_tensor("successes", successes, shape=samples.shape, dtype=torch.int64)
    check_bound("k", k, at_least=1)
    taken = torch.arange(k, device=samples.device)
    failures = (samples - successes).unsqueeze(-1) - taken
    left = samples.unsqueeze(-1) - taken
    # With fewer than k failures, one of the factors is 0.
    missed = (failures.double() / left.clamp(min=1)).prod(-1)
    return torch.where(samples >= k, 1 - missed, torch.nan)
