"""Clip-Cov: a few tokens with high covariance are left out of each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch

from entropy_ext import TokenStats, token_selection
from entropy_ext.recipes.dynamic_sampling import DynamicSampling
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Group, Plan, Sampling, Statistics, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.controllers import StepSeed
from entropy_ext.rl.losses import TokenLoss, clip_cov, held_by_clip, log_ratio
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.statistics import token_covariance, token_ids

__all__ = ["ClipCov"]


class ClipCov(DynamicSampling):
    """Clip-Cov.

    Against GRPO: of the tokens whose (logp − mean)(A − mean) lies within `bounds` and which are not
    clipped, max(⌊fraction·N⌋, 1) drawn at random get no gradient; the ratio may range from 0 to 2;
    mean over tokens; groups that are all right or all wrong are dropped.

    "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models"
    (arXiv 2505.22617, eq. 10 to 12): 256 prompts × 8, 8 optimizer steps per rollout. The released
    code computes means and draws tokens per micro-batch and rank; here over the mini-batch.

    Args:
        clip_low: the ratio may fall to 1 − clip_low.
        clip_high: the ratio may rise to 1 + clip_high.
        fraction: fraction of all response tokens; at least one token is selected.
        bounds: smallest and largest covariance, nats, both strict.
        seed: seed of the random choice.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "clip_cov"
    paper: ClassVar[str] = "arXiv 2505.22617"
    statistics: Statistics = "minibatch"
    aggregation: Aggregation = "token-mean"
    minibatches: int = 8
    sampling: Sampling = Sampling(group_size=8, refill=9)

    def __init__(
        self,
        *,
        clip_low: float = 1.0,
        clip_high: float = 1.0,
        fraction: float = 2e-4,
        bounds: tuple[float, float] = (1.0, 5.0),
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.refuse(options, "dual_clip")
        super().__init__(clip_low=clip_low, clip_high=clip_high, **options)
        self.fraction = check_bound("fraction", fraction, at_least=0, at_most=1)
        self.seed = StepSeed(check_bound("seed", seed, integer=True))
        if not isinstance(bounds, tuple | list) or len(bounds) != 2:
            raise TypeError(f"bounds: expected a pair of numbers, got {bounds!r}")
        check_bound("bounds[0]", bounds[0])
        check_bound("bounds[1]", bounds[1], above=bounds[0])
        self.bounds = (bounds[0], bounds[1])

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The tokens to leave out."""
        plan = super().prepare(stats, rollout, targets, group=group)
        stats = statistics_of(self, stats, rollout)
        log_rho, _ = log_ratio(stats.logp, rollout.old_logp, plan.mask)
        valid = plan.mask & torch.isfinite(stats.logp)
        held = held_by_clip(
            log_rho.exp(), targets.advantages, clip_low=self.clip_low, clip_high=self.clip_high
        )
        selected = token_selection.clip_cov(
            token_covariance(stats.logp, targets.advantages, valid, group=group),
            valid,
            fraction=self.fraction,
            bounds=self.bounds,
            clipped=held[0] | held[1],
            seed=self.seed.step(),
            token_ids=token_ids(plan.mask, group=group),
            group=group,
        )
        return replace(plan, tokens={**plan.tokens, "clip_cov": selected})

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Clipped, without the chosen tokens."""
        return clip_cov(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            plan.tokens["clip_cov"],
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
