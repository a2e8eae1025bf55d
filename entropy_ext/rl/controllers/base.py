"""The base class of controllers: a measurement in, a coefficient out, all on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_tensor

__all__ = ["Controller"]


class Controller(ABC):
    """Moves a coefficient once per optimizer step, based on a measurement.

    The state consists of named 0-d tensors on the device of the measurements, so that a step never
    waits for the device. A measurement that is not finite, such as the mean of no tokens, leaves
    the state unchanged and gives 0.

    Args:
        initial: name → starting value, for each part of the state.
    """

    def __init__(self, **initial: float) -> None:
        self._initial = initial
        self._state: dict[str, Tensor] = {}

    @abstractmethod
    def advance(
        self, measured: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The coefficient for this step, 0-d, and the state after it. A pure function."""

    @torch.no_grad()
    def step(self, measured: Tensor) -> Tensor:
        """The coefficient, 0-d, for the step in which `measured` was measured; updates the state.

        Args:
            measured: 0-d floating tensor.

        Raises:
            TypeError, ValueError: not a 0-d floating tensor.
        """
        check_tensor("measured", measured, shape=(), floating=True)
        # torch.full, because torch.tensor of a host number would wait for the device.
        state = {
            name: self._state[name].to(measured)
            if name in self._state
            else torch.full((), value, dtype=measured.dtype, device=measured.device)
            for name, value in self._initial.items()
        }
        coefficient, after = self.advance(measured, state)
        known = torch.isfinite(measured)
        self._state = {name: torch.where(known, after[name], state[name]) for name in state}
        return torch.where(known, coefficient, 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """name → 0-d tensor; empty before the first step."""
        return {name: value.clone() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the names are not those of this controller.
        """
        if state and set(state) != set(self._initial):
            expected, got = ", ".join(sorted(self._initial)), ", ".join(sorted(state))
            raise ValueError(f"state: expected {expected}, got {got}")
        self._state = {name: value.clone() for name, value in state.items()}
