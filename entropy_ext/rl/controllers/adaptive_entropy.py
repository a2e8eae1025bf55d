"""Skywork-OR1's adaptive entropy coefficient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.controllers.base import Controller

__all__ = ["AdaptiveEntropy", "EntropyGate"]

EntropyGate = Literal["lagged_strict", "current_le", "lagged_le"]


class AdaptiveEntropy(Controller):
    """Raises the weight of the entropy bonus while entropy is below a target, else lowers it.

    With eₖ the entropy measured at step k:
    cₖ₊₁ = clip(cₖ + delta if eₖ < target else cₖ − delta, minimum, maximum),
    and the coefficient used in step k is

    - "lagged_strict": cₖ·1{eₖ₋₁ < target}, with the gate open at the first step (released code);
    - "current_le":    cₖ·1{eₖ ≤ target} (the paper);
    - "lagged_le":     cₖ·1{eₖ₋₁ ≤ target}, and c rises where eₖ ≤ target (TRL).

    "Skywork Open Reasoner 1 Technical Report" (arXiv 2505.22312, section 4). The paper gives no
    rule for eₖ = target under "current_le"; c falls there, as in the released code.

    Args:
        target: entropy to hold, nats.
        delta: change of the coefficient per step; the released scripts use 1e-4, TRL 0.005.
        initial: the first coefficient.
        minimum: lower bound of c, ≥ 0.
        maximum: upper bound of c.
        gate: one of the three above.

    Raises:
        ValueError: a bound or an option out of range.
    """

    def __init__(
        self,
        target: float = 0.2,
        *,
        delta: float = 1e-4,
        initial: float = 0.0,
        minimum: float = 0.0,
        maximum: float = 0.005,
        gate: EntropyGate = "lagged_strict",
    ) -> None:
        check_bound("target", target, finite=True)
        check_bound("delta", delta, at_least=0)
        check_bound("minimum", minimum, at_least=0)
        check_bound("maximum", maximum, at_least=minimum)
        check_bound("initial", initial, at_least=minimum, at_most=maximum)
        check_choice("gate", gate, get_args(EntropyGate))
        super().__init__(coefficient=initial, open=1.0)
        self.target = target
        self.delta = delta
        self.minimum = minimum
        self.maximum = maximum
        self.gate = gate

    def advance(
        self, measured: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The gated coefficient, and the coefficient and gate for the next step."""
        coefficient = state["coefficient"]
        at_most, below = measured <= self.target, measured < self.target
        rises = at_most if self.gate == "lagged_le" else below
        is_open = at_most if self.gate == "current_le" else state["open"] > 0
        moved = torch.where(rises, coefficient + self.delta, coefficient - self.delta)
        after = {
            "coefficient": moved.clamp(self.minimum, self.maximum),
            "open": rises.to(measured.dtype),
        }
        return torch.where(is_open, coefficient, 0.0), after
