"""token_stats against the float64 closed forms of the same tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from entropy_ext import TokenStats, reference, token_stats
from sim.tabular import Array, softmax_policy
from sim.theorem1.tables import Chunk

__all__ = ["QUANTITIES", "Deviation", "TokenCheck"]

QUANTITIES = ("logp", "entropy", "lse")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
ULPS = 4


class Deviation(NamedTuple):
    """Largest distance of one quantity from the closed form, over a table. Nats."""

    dtype: str
    quantity: str
    error: float
    plain_error: float
    """that of plain PyTorch in the same dtype"""
    bound: float
    """plain_error + 4 ulp of max(1, |closed form|)"""


@dataclass
class TokenCheck:
    """Largest deviations of token_stats, kept up over the chunks of a table."""

    worst: dict[tuple[str, str], tuple[float, float, float]] = field(default_factory=dict)
    """(dtype, quantity) → largest error, error of plain PyTorch, |closed form|"""

    def update(self, chunk: Chunk) -> None:
        """Compare one chunk, in both dtypes.

        The closed forms see the logits as rounded to the dtype, so that only arithmetic differs.
        """
        tokens = torch.from_numpy(chunk.tokens)
        for name, dtype in DTYPES.items():
            logits = torch.from_numpy(chunk.logits).to(dtype)
            truth = _closed_forms(logits.double().numpy(), chunk.tokens)
            errors = _errors(token_stats, logits, tokens, truth)
            plain_errors = _errors(reference.token_stats, logits, tokens, truth)
            for quantity in QUANTITIES:
                values = (
                    errors[quantity],
                    plain_errors[quantity],
                    float(np.abs(truth[quantity]).max()),
                )
                # np.maximum and not max: a NaN must stay.
                before = self.worst.get((name, quantity), (0.0, 0.0, 0.0))
                self.worst[name, quantity] = tuple(np.maximum(before, values).tolist())

    def deviations(self) -> list[Deviation]:
        """What was found so far, by dtype and quantity."""
        found = []
        for (dtype, quantity), (error, plain_error, size) in self.worst.items():
            bound = plain_error + ULPS * torch.finfo(DTYPES[dtype]).eps * max(1.0, size)
            found.append(Deviation(dtype, quantity, error, plain_error, bound))
        return found


def _closed_forms(logits: Array, tokens: NDArray[np.int64]) -> dict[str, Array]:
    policy = softmax_policy(logits)
    logp = np.take_along_axis(policy.logp, tokens[:, None], axis=1)[:, 0]
    return {"logp": logp, "entropy": policy.entropy, "lse": policy.lse}


def _errors(
    statistics: Callable[[torch.Tensor, torch.Tensor], TokenStats],
    logits: torch.Tensor,
    tokens: torch.Tensor,
    truth: dict[str, Array],
) -> dict[str, float]:
    """Largest |statistic − truth| of every quantity."""
    stats = statistics(logits, tokens)
    return {
        quantity: float(np.abs(getattr(stats, quantity).double().numpy() - values).max())
        for quantity, values in truth.items()
    }
