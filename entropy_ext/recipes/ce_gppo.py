"""CE-GPPO: clipped tokens keep a bounded gradient."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, ce_gppo
from entropy_ext.rl.rollout import Rollout

__all__ = ["CeGppo"]


class CeGppo(Recipe):
    """Coordinating entropy by gradient-preserving policy optimization.

    Against GRPO: clip 0.2 / 0.28, and tokens beyond it keep a gradient of beta_low or beta_high
    times the bound; mean over tokens. A larger beta_high lets rare good tokens keep rising, which
    keeps entropy up; a larger beta_low pushes rare bad ones further down, which lowers it.

    "CE-GPPO" (arXiv 2509.20712). The default of beta_low is the value for 7B models; it is 0.5 for
    1.5B, and 0.25 by default in the released function. With both betas at 1 this is GPPO (arXiv
    2508.07629).

    Args:
        clip_low: the ratio may fall to 1 − clip_low at full gradient.
        clip_high: the ratio may rise to 1 + clip_high at full gradient.
        beta_low: factor on the gradient below the lower bound.
        beta_high: factor on the gradient above the upper bound.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "ce_gppo"
    paper: ClassVar[str] = "arXiv 2509.20712"
    aggregation: Aggregation = "token-mean"

    def __init__(
        self,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        beta_low: float = 0.75,
        beta_high: float = 1.0,
        **options: Any,
    ) -> None:
        self.refuse(options, "dual_clip")
        super().__init__(clip_low=clip_low, clip_high=clip_high, **options)
        check_bound("beta_low", beta_low, at_least=0)
        check_bound("beta_high", beta_high, at_least=0)
        self.beta_low = beta_low
        self.beta_high = beta_high

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Clipped in value, not in gradient."""
        return ce_gppo(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            beta_low=self.beta_low,
            beta_high=self.beta_high,
        )
