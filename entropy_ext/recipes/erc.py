"""ERC: no gradient for tokens whose entropy has changed too much."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, entropy_ratio_mask
from entropy_ext.rl.rollout import Rollout

__all__ = ["Erc"]


class Erc(Recipe):
    """Entropy ratio clipping.

    Against GRPO: besides the clip on the probability ratio, a bound on the ratio of entropies: a
    token whose entropy has left (1 − entropy_low, 1 + entropy_high) times the old one has no
    gradient, but still counts in the value and the denominator; dual clip 10; mean over tokens.

    "Entropy Ratio Clipping" (arXiv 2512.05591), as the mode grpo_erc of Kwai-Klear/ERC, whose
    configuration has the default 0.2 / 0.2 for the entropies. The bounds on the probability ratio
    could not be verified and are GRPO's.

    Args:
        entropy_low: the entropy may fall to 1 − entropy_low of the old one.
        entropy_high: the entropy may rise to 1 + entropy_high of the old one.
        dual_clip: bound on the ratio where the advantage is negative, or None.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "erc"
    paper: ClassVar[str] = "arXiv 2512.05591"
    needs: frozenset[str] = frozenset({"old_entropy"})
    aggregation: Aggregation = "token-mean"

    def __init__(
        self,
        *,
        entropy_low: float = 0.05,
        entropy_high: float = 0.05,
        dual_clip: float | None = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(dual_clip=dual_clip, **options)
        check_bound("entropy_low", entropy_low, at_least=0, at_most=1)
        check_bound("entropy_high", entropy_high, at_least=0)
        self.entropy_low = entropy_low
        self.entropy_high = entropy_high

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The clipped loss, detached where the entropy has left its bounds."""
        loss, metrics = super().policy_loss(stats, rollout, targets, plan)
        near = entropy_ratio_mask(
            stats.entropy,
            cast(Tensor, rollout.old_entropy),
            plan.mask,
            clip_low=self.entropy_low,
            clip_high=self.entropy_high,
        )
        stopped = (plan.mask & ~near).sum()
        return TokenLoss(torch.where(near, loss, loss.detach()), {**metrics, "stopped": stopped})
