"""EntroPIC's proportional-integral controller of the entropy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.controllers.base import Controller

__all__ = ["EntropyPI"]


class EntropyPI(Controller):
    """Positive while the entropy is above its target, negative while it is below.

    With eₖ = Hₖ − target and S₀ = 0:
    αₖ = clip(kp·eₖ + ki·Sₖ, ±limit),  Sₖ₊₁ = Sₖ + scale·eₖ.

    Under a constant drift, the proportional part alone leaves a steady error of drift/kp, which the
    integral removes. The released code lets S grow without bound while α is clipped, and then
    overshoots until S has come back (anti_windup=False). With anti_windup=True, S does not change
    while α is clipped and the error would push it further out.

    "EntroPIC" (arXiv 2511.15248). Its text has e = target − H; the sign used here is that of the
    released code, the only one that is stable with its loss.

    Args:
        target: entropy to hold, nats.
        kp: α per nat of error.
        ki: α per nat of accumulated error.
        limit: bound on |α|.
        scale: the fraction of an optimizer step that one measurement represents.
        anti_windup: see above.

    Raises:
        ValueError: a bound out of range.
    """

    def __init__(
        self,
        target: float = 0.1,
        *,
        kp: float = 1.0,
        ki: float = 0.01,
        limit: float = 1.0,
        scale: float = 1.0,
        anti_windup: bool = False,
    ) -> None:
        check_bound("target", target, finite=True)
        check_bound("kp", kp, at_least=0)
        check_bound("ki", ki, at_least=0)
        check_bound("limit", limit, above=0)
        check_bound("scale", scale, above=0)
        super().__init__(integral=0.0)
        self.target = target
        self.kp = kp
        self.ki = ki
        self.limit = limit
        self.scale = scale
        self.anti_windup = anti_windup

    def advance(
        self, measured: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """α of this step, computed with the integral before this step."""
        error = measured - self.target
        wanted = self.kp * error + self.ki * state["integral"]
        alpha = wanted.clamp(-self.limit, self.limit)
        integral = state["integral"] + self.scale * error
        if self.anti_windup:
            outward = (wanted.abs() > self.limit) & (wanted * error > 0)
            integral = torch.where(outward, state["integral"], integral)
        return alpha, {"integral": integral}
