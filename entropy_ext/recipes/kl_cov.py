"""KL-Cov: a penalty keeps the tokens with the highest covariance near the sampling policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch

from entropy_ext import TokenStats, token_selection
from entropy_ext.recipes.dynamic_sampling import DynamicSampling
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Group, Plan, Sampling, Statistics, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.losses import CovPenalty, TokenLoss, kl_cov
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.statistics import token_covariance, token_ids

__all__ = ["KLCov"]

KLCovVariant = Literal["paper", "verl"]

_DEFAULTS: dict[str, tuple[float, float]] = {"paper": (1.0, 2e-3), "verl": (0.1, 2e-4)}


class KLCov(DynamicSampling):
    """KL-Cov.

    Against GRPO: the max(⌊fraction·N⌋, 1) tokens with the greatest (logp − mean)(A − mean) get a
    penalty cov_coef·|logp − old_logp|; there is no clip; mean over tokens; groups that are all
    right or all wrong are dropped. Exactly on policy this is plain policy gradient, so it needs
    several optimizer steps per rollout.

    "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models"
    (arXiv 2505.22617, eq. 10, 13 and 14): 256 prompts × 8, 8 optimizer steps per rollout; fraction
    2e-3 for 7B, 2e-4 for 32B (0.2 and 0.02 in the scripts are percent). The released code takes
    means and selects tokens per micro-batch and rank; here over the mini-batch.

    Args:
        variant: "paper": cov_coef 1, fraction 2e-3; "verl": its defaults 0.1 and 2e-4.
        cov_coef: weight of the penalty; None: that of the variant.
        fraction: fraction of all response tokens, at least one token; None: that of the variant.
        penalty: "abs" as in the released code, "k2" or "k3", see `rl.losses.kl_cov`.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "kl_cov"
    paper: ClassVar[str] = "arXiv 2505.22617"
    statistics: Statistics = "minibatch"
    aggregation: Aggregation = "token-mean"
    minibatches: int = 8
    sampling: Sampling = Sampling(group_size=8, refill=9)

    def __init__(
        self,
        *,
        variant: KLCovVariant = "paper",
        cov_coef: float | None = None,
        fraction: float | None = None,
        penalty: CovPenalty = "abs",
        **options: Any,
    ) -> None:
        self.refuse(options, "clip_low", "clip_high", "dual_clip")
        super().__init__(**options)
        check_choice("variant", variant, get_args(KLCovVariant))
        coef, share = _DEFAULTS[variant]
        coef = coef if cov_coef is None else cov_coef
        share = share if fraction is None else fraction
        self.cov_coef = check_bound("cov_coef", coef, at_least=0)
        self.fraction = check_bound("fraction", share, at_least=0, at_most=1)
        self.penalty: CovPenalty = check_choice("penalty", penalty, get_args(CovPenalty))

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan, with the tokens to penalise."""
        plan = super().prepare(stats, rollout, targets, group=group)
        stats = statistics_of(self, stats, rollout)
        valid = plan.mask & torch.isfinite(stats.logp)
        selected = token_selection.kl_cov(
            token_covariance(stats.logp, targets.advantages, valid, group=group),
            valid,
            fraction=self.fraction,
            token_ids=token_ids(plan.mask, group=group),
            group=group,
        )
        return replace(plan, tokens={**plan.tokens, "kl_cov": selected})

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The unclipped loss, with the penalty on the chosen tokens."""
        return kl_cov(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            plan.tokens["kl_cov"],
            coef=self.cov_coef,
            penalty=self.penalty,
        )
