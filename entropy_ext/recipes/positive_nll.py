"""The likelihood of right responses: a term of VAPO, as a part for `compose`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Plan, Targets
from entropy_ext.rl.aggregate import count
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, positive_nll
from entropy_ext.rl.rollout import Rollout

__all__ = ["PositiveNLL"]


class PositiveNLL(Recipe):
    """GRPO plus nll_coef times the mean of −logp over the tokens of right responses.

    "VAPO: Efficient and Reliable Reinforcement Learning for Advanced Reasoning Tasks"
    (arXiv 2504.05118). No ratio and no clip; a mini-batch without right responses adds nothing.

    Args:
        nll_coef: weight of the term; 0 turns it off.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "positive_nll"
    paper: ClassVar[str] = "arXiv 2504.05118"
    needs: frozenset[str] = frozenset({"correct"})

    def __init__(self, *, nll_coef: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.nll_coef = check_bound("nll_coef", nll_coef, at_least=0, finite=True)

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan; the coefficient is scaled to make it a mean over right responses."""
        plan = super().prepare(stats, rollout, targets, group=group)
        if self.nll_coef == 0:
            return plan
        right = plan.mask & cast(Tensor, rollout.correct).unsqueeze(-1)
        counted = count(right, self.aggregation, group=group)
        share = torch.where(counted > 0, plan.normalizer / counted, 0.0).to(rollout.old_logp.dtype)
        return replace(plan, coefficients={**plan.coefficients, "nll": self.nll_coef * share})

    def token_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The base's loss plus the likelihood of right responses."""
        loss, metrics = super().token_loss(stats, rollout, targets, plan)
        if "nll" in plan.coefficients:
            nll, seen = positive_nll(stats.logp, cast(Tensor, rollout.correct), plan.mask)
            loss, metrics = loss + plan.coefficients["nll"] * nll, {**metrics, **seen}
        return TokenLoss(loss, metrics)
