"""Entropy-neutral policy gradient: to first order, the update does not change the entropy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Group, Plan, Statistics, Targets
from entropy_ext.rl.advantages.entropy_neutral import entropy_neutral, step_size_squared
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, log_ratio
from entropy_ext.rl.rollout import Rollout
from entropy_ext.token_selection import entropy_change

__all__ = ["EntropyNeutral"]


class EntropyNeutral(Recipe):
    """Projects the advantages so that the first-order change of the batch's entropy is `target`.

    A′ = A − κ·c/(‖1[a] − p‖² + damping), where c is each token's exact first-order entropy change
    per unit advantage and κ gives Σ c A′ its target value; the loss is GRPO's with A′, averaged
    over tokens.

    Original to this library: an answer to the survey's open question whether there is an objective
    that does not lower the entropy. Derivation: docs/derivations.md, section 5. It considers each
    token's effect on its own distribution only. In a network, shared parameters carry a step to
    other states too, so there the entropy falls more slowly rather than not at all.

    Args:
        strength: 0 is GRPO with a mean over tokens, 1 enforces the target.
        target: target for the change of entropy per token and unit step on the logits, nats.
        damping: see `rl.advantages.entropy_neutral`.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "entropy_neutral"
    paper: ClassVar[str] = "none: docs/derivations.md, section 5"
    statistics: Statistics = "minibatch"
    extras: bool = True
    aggregation: Aggregation = "token-mean"

    def __init__(
        self, *, strength: float = 1.0, target: float = 0.0, damping: float = 1e-3, **options: Any
    ) -> None:
        super().__init__(**options)
        self.strength = check_bound("strength", strength, at_least=0, at_most=1)
        self.target = check_bound("target", target, finite=True)
        self.damping = check_bound("damping", damping, above=0, finite=True)

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan, and the projected advantages."""
        plan = super().prepare(stats, rollout, targets, group=group)
        stats = statistics_of(self, stats, rollout)
        advantages = targets.advantages.to(stats.logp.dtype)
        log_rho, _ = log_ratio(stats.logp, rollout.old_logp.to(stats.logp.dtype), plan.mask)
        ratio = log_rho.exp()
        # Clipped tokens have no gradient: they neither change the entropy nor can compensate for
        # others.
        low, high = 1 - self.clip_low, 1 + self.clip_high
        highest = math.inf if self.dual_clip is None else self.dual_clip
        held = torch.where(advantages > 0, ratio > high, (ratio < low) | (ratio > highest))
        change = entropy_change(stats, torch.ones_like(advantages), ratio=ratio)
        size = ratio.square() * step_size_squared(stats.logp, cast(Tensor, stats.collision))
        known = plan.mask & ~held & torch.isfinite(change)
        projected = entropy_neutral(
            advantages,
            torch.where(known, change, 0.0),
            torch.where(known, size, 0.0),
            plan.mask,
            strength=self.strength,
            target=self.target,
            damping=self.damping,
            group=group,
        )
        return replace(plan, tokens={**plan.tokens, "advantages": projected})

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """GRPO's, with the plan's advantages."""
        projected = Targets(plan.tokens["advantages"], targets.returns)
        return super().policy_loss(stats, rollout, projected, plan)
