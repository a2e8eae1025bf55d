"""Off-policy sequence masking of DeepSeek-V3.2, as a part for `compose`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.losses import TokenLoss, off_policy_sequence_mask
from entropy_ext.rl.rollout import Rollout

__all__ = ["SequenceMask"]

Behaviour = Literal["sampler", "trainer"]


class SequenceMask(Recipe):
    """GRPO without the policy loss of sequences with A < 0 and mean old_logp − logp > threshold.

    KL penalty and divisors are unchanged. "DeepSeek-V3.2" (arXiv 2512.02556), with the formula of
    TRL and slime; the report does not give the threshold (TRL suggests 0.5, slime 1e-4).

    Args:
        off_policy_threshold: nats per token, or None to leave no sequence out.
        behaviour: measure the distance from the "sampler" (Rollout.rollout_logp), which includes a
            mismatch of the two engines, or from the "trainer" (old_logp).
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "sequence_mask"
    paper: ClassVar[str] = "arXiv 2512.02556"

    def __init__(
        self,
        *,
        off_policy_threshold: float | None = 0.5,
        behaviour: Behaviour = "sampler",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.off_policy_threshold = check_bound(
            "off_policy_threshold", off_policy_threshold, at_least=0, optional=True
        )
        self.behaviour = check_choice("behaviour", behaviour, get_args(Behaviour))
        # The mean is taken over the whole response.
        self.whole_sequences = True
        if behaviour == "sampler" and off_policy_threshold is not None:
            self.needs = self.needs | {"rollout_logp"}

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The clipped loss, without off-policy sequences with negative advantage."""
        loss, metrics = super().policy_loss(stats, rollout, targets, plan)
        if self.off_policy_threshold is None:
            return TokenLoss(loss, metrics)
        behaviour = rollout.rollout_logp if self.behaviour == "sampler" else rollout.old_logp
        kept = off_policy_sequence_mask(
            stats.logp,
            cast(Tensor, behaviour),
            targets.advantages,
            plan.mask,
            threshold=self.off_policy_threshold,
        )
        left_out = (plan.mask & ~kept).sum()
        return TokenLoss(torch.where(kept, loss, 0.0), {**metrics, "off_policy": left_out})
