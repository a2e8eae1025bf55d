"""MiniRL: token-level REINFORCE as the first-order form of the sequence objective."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.mean_baseline import MeanBaseline
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, minirl
from entropy_ext.rl.rollout import Rollout

__all__ = ["MiniRL"]


class MiniRL(MeanBaseline):
    """Qwen's minimal stable baseline.

    Against GRPO: L = −M·sg(w)·A·logp, where w is the capped ratio to the sampler's probability, and
    M leaves out tokens whose trainer ratio is beyond the bound in the direction of their advantage;
    A = r − mean_g r; the loss of a response is the sum over its tokens, not divided by its length.

    "Stabilizing Reinforcement Learning with LLMs: Formulation and Practices" (arXiv 2512.01374).
    clip_low, clip_high and max_weight could not be verified; sail-sg/Stable-RL has max_weight=10.

    Args:
        clip_low: tokens with negative advantage count down to a ratio of 1 − clip_low.
        clip_high: tokens with positive advantage count up to a ratio of 1 + clip_high.
        max_weight: cap on w.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "minirl"
    paper: ClassVar[str] = "arXiv 2512.01374"
    needs: frozenset[str] = frozenset({"rollout_logp"})
    corrects_sampler: ClassVar[bool] = True
    aggregation: Aggregation = "seq-mean-token-sum"

    def __init__(
        self,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.27,
        max_weight: float = 5.0,
        **options: Any,
    ) -> None:
        self.refuse(options, "dual_clip")
        super().__init__(clip_low=clip_low, clip_high=clip_high, **options)
        check_bound("max_weight", max_weight, above=0)
        self.max_weight = max_weight

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Log-likelihood weighted by advantage and importance, without far-off tokens."""
        return minirl(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            rollout_logp=cast(Tensor, rollout.rollout_logp),
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            max_weight=self.max_weight,
        )
