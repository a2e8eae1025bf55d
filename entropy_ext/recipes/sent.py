"""SENT: semantic entropy orders the prompts, and token entropy selects tokens to penalise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch

from entropy_ext import TokenStats
from entropy_ext.recipes.semantic_curriculum import SemanticCurriculum
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Group, Plan, Sampling, Statistics, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, sent, sent_penalty
from entropy_ext.rl.rollout import Rollout

__all__ = ["Sent"]


class Sent(SemanticCurriculum):
    """Reinforcement learning with semantic and token entropy.

    Against GRPO: prompts with low semantic entropy first; the ratio is not clipped; among the 80 %
    of tokens with the lowest entropy, those with the greatest and the smallest covariance of logp
    and advantage are kept near the old policy by hold_coef·{2, ½}·|logp − old_logp|; k3 penalty on
    the divergence from the reference; mean over tokens.

    "Efficient RL with Semantic and Token Entropy for LLM Reasoning" (arXiv 2512.04359): 256 prompts
    × 8, 2 optimizer steps per rollout. The default is what the released code intends, per optimizer
    step instead of micro-batch. The paper penalises all low-entropy tokens, which is hold_rest > 0.
    How the code splits the prompts could not be verified.

    Args:
        low_fraction: fraction of the tokens that count as low-entropy.
        cov_fraction: fraction of those that is penalised at either end, at least one token.
        hold_coef: weight of the penalty; 0 gives unclipped GRPO with the curriculum.
        hold_rest: factor for the other low-entropy tokens.
        kl_coef: weight of the penalty on the divergence from the reference.
        stages: stages of the curriculum; 1 turns it off.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "sent"
    paper: ClassVar[str] = "arXiv 2512.04359"
    aggregation: Aggregation = "token-mean"
    statistics: Statistics = "minibatch"
    minibatches: int = 2
    sampling: Sampling = Sampling(group_size=8)

    def __init__(
        self,
        *,
        low_fraction: float = 0.8,
        cov_fraction: float = 2e-4,
        hold_coef: float = 0.1,
        hold_rest: float = 0.0,
        kl_coef: float = 0.001,
        stages: int = 2,
        **options: Any,
    ) -> None:
        self.refuse(options, "clip_low", "clip_high", "dual_clip")
        super().__init__(kl_coef=kl_coef, stages=stages, **options)
        self.low_fraction = check_bound("low_fraction", low_fraction, at_least=0, at_most=1)
        self.cov_fraction = check_bound("cov_fraction", cov_fraction, at_least=0, at_most=1)
        self.hold_coef = check_bound("hold_coef", hold_coef, at_least=0)
        self.hold_rest = check_bound("hold_rest", hold_rest, at_least=0)

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan, with the tokens to penalise."""
        plan = super().prepare(stats, rollout, targets, group=group)
        stats = statistics_of(self, stats, rollout)
        hold = sent_penalty(
            stats.logp,
            stats.entropy,
            targets.advantages,
            plan.mask,
            low_fraction=self.low_fraction,
            cov_fraction=self.cov_fraction,
            rest=self.hold_rest,
            group=group,
        )
        return replace(plan, tokens={**plan.tokens, "hold": hold})

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The unclipped loss, with the penalty."""
        return sent(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            penalty=plan.tokens["hold"],
            coef=self.hold_coef,
        )
