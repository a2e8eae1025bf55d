"""When to reset the reference to the current policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entropy_ext.rl.checks import check_bound

__all__ = ["ReferenceReset"]


class ReferenceReset:
    """Requests a reset after a fixed period, a spike of the divergence, or stalled validation.

    A reset is due after `every` steps without one, when the divergence from the reference exceeds
    `kl_limit`, or when `patience` validations in a row have not beaten the best score since the
    last reset. It uses numbers of a finished step on the host, so it is not a `Controller`.

    "ProRL" (arXiv 2505.24864): on stalled or falling validation. ProRL v2 (NVIDIA, August 2025):
    every 200 to 500 steps, on a spike, or on stalled validation. Neither defines a stall or a
    spike.

    Args:
        every: steps, or None.
        kl_limit: nats per token, or None.
        patience: validations, or None.

    Raises:
        ValueError: a bound out of range.
    """

    def __init__(
        self,
        *,
        every: int | None = None,
        kl_limit: float | None = None,
        patience: int | None = None,
    ) -> None:
        if every is not None:
            check_bound("every", every, at_least=1, integer=True)
        if kl_limit is not None:
            check_bound("kl_limit", kl_limit, above=0)
        if patience is not None:
            check_bound("patience", patience, at_least=1, integer=True)
        self.every = every
        self.kl_limit = kl_limit
        self.patience = patience
        self._steps = 0
        self._stalled = 0
        self._best: float | None = None

    def step(self, *, kl: float | None = None, validation: float | None = None) -> bool:
        """Whether to reset after this step.

        Args:
            kl: divergence from the reference, nats per token, if it was measured.
            validation: a score (higher is better), if this step ended with a validation.
        """
        self._steps += 1
        if validation is not None:
            improved = self._best is None or validation > self._best
            self._stalled = 0 if improved else self._stalled + 1
            self._best = validation if improved else self._best
        due = (
            (self.every is not None and self._steps >= self.every)
            or (self.kl_limit is not None and kl is not None and kl > self.kl_limit)
            or (self.patience is not None and self._stalled >= self.patience)
        )
        if due:
            self._steps, self._stalled, self._best = 0, 0, None
        return due

    def state_dict(self) -> dict[str, Any]:
        """Counts and the best score since the last reset."""
        return {"steps": self._steps, "stalled": self._stalled, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._steps, self._stalled, self._best = state["steps"], state["stalled"], state["best"]
