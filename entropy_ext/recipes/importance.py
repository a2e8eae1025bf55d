"""Importance weights for a sampler that differs from the trainer's policy."""

from __future__ import annotations

from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Plan, Targets
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.importance import MaskLevel, masked_importance, truncated_importance
from entropy_ext.rl.rollout import Rollout

__all__ = ["MaskedIS", "TruncatedIS"]


class TruncatedIS(Recipe):
    """Truncated importance sampling.

    Against GRPO: each token's policy loss is multiplied by clip(π_old/μ, low, high), where μ is the
    probability reported by the sampler; denominators are unchanged.

    As in verl, TRL and OpenRLHF; verl usually caps at 2. It can be part of any composition that has
    no other correction for the sampler.

    Args:
        low: the smallest weight.
        high: the largest weight.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "truncated_is"
    paper: ClassVar[str] = "verl, rollout correction"
    needs: frozenset[str] = frozenset({"rollout_logp"})
    corrects_sampler: ClassVar[bool] = True

    def __init__(self, *, low: float = 0.0, high: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        check_bound("low", low, at_least=0)
        check_bound("high", high, at_least=low)
        self.low = low
        self.high = high

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan, weighted by the correction."""
        plan = super().prepare(stats, rollout, targets, group=group)
        return plan.weighted(self.weights(rollout))

    def weights(self, rollout: Rollout) -> Tensor:
        """[B, T]: the factor on each token's policy loss."""
        sampler = cast(Tensor, rollout.rollout_logp)
        return truncated_importance(
            rollout.old_logp, sampler, rollout.mask, low=self.low, high=self.high
        )


class MaskedIS(TruncatedIS):
    """Masked importance sampling.

    Against GRPO: each token's policy loss is multiplied by π_old/μ, where μ is the probability
    reported by the sampler, or by 0 if that ratio is out of bounds: the ratio of the token
    ("token", IcePop), or its geometric mean over the response ("sequence"). Denominators are
    unchanged.

    As in NeMo-RL and OpenRLHF, with their bounds 0.5 and 5. It can be part of any composition that
    has no other correction for the sampler.

    Args:
        low: the smallest ratio.
        high: the largest ratio.
        level: "token" or "sequence".
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "masked_is"
    paper: ClassVar[str] = "NeMo-RL, OpenRLHF"

    def __init__(
        self,
        *,
        low: float = 0.5,
        high: float = 5.0,
        level: MaskLevel = "token",
        **options: Any,
    ) -> None:
        super().__init__(low=low, high=high, **options)
        check_choice("level", level, get_args(MaskLevel))
        self.level: MaskLevel = level

    def weights(self, rollout: Rollout) -> Tensor:
        """[B, T]: the factor on each token's policy loss."""
        return masked_importance(
            rollout.old_logp,
            cast(Tensor, rollout.rollout_logp),
            rollout.mask,
            low=self.low,
            high=self.high,
            level=self.level,
        )
