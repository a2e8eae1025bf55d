"""DeepSeek-V3.2's stabilisers of GRPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.mean_baseline import MeanBaseline
from entropy_ext.recipes.sequence_mask import SequenceMask
from entropy_ext.recipes.types import Group, Plan, Targets
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss
from entropy_ext.rl.rollout import Rollout

__all__ = ["DeepSeekV32"]


class DeepSeekV32(SequenceMask, MeanBaseline):
    """GRPO stabilised for off-policy data.

    Against GRPO: A = r − mean_g r; sequences with negative advantage whose mean old_logp − logp
    exceeds off_policy_threshold are removed from the policy loss, but not from the KL penalty or
    the divisors; the KL estimator is unbiased off policy; with top-p or top-k sampling,
    log-probabilities are renormalised over the token ids that the sampler kept, which needs
    Rollout.support.

    "DeepSeek-V3.2" (arXiv 2512.02556), with the formulas of TRL and slime. The report gives neither
    the threshold (TRL suggests 0.5, slime 1e-4) nor the KL weight, which depends on the domain and
    may be 0 for mathematics. Keep Routing is left to the trainer.

    Args:
        kl_coef: weight of the penalty on the divergence from the reference.
        domain_kl: Rollout.domain → factor on kl_coef; 1 for domains that are not listed.
        options: the remaining arguments of `SequenceMask` and `MeanBaseline`.
    """

    name: ClassVar[str] = "deepseek_v32"
    paper: ClassVar[str] = "arXiv 2512.02556"

    def __init__(
        self,
        *,
        kl_coef: float = 1e-3,
        domain_kl: Mapping[int, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(kl_coef=kl_coef, **{"kl_estimator": "unbiased", **options})
        if not isinstance(domain_kl, Mapping | None):
            raise TypeError(f"domain_kl: expected domain → factor or None, got {domain_kl!r}")
        self.domain_kl = dict(domain_kl or {})
        for domain, factor in self.domain_kl.items():
            check_bound("domain_kl: domain", domain, integer=True)
            check_bound(f"domain_kl[{domain}]", factor, at_least=0, finite=True)
        if self.domain_kl:
            self.needs = self.needs | {"domain"}
        if self.sampling.top_p < 1 or self.sampling.top_k is not None:
            self.needs = self.needs | {"support"}

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan, with the weight of each token's divergence."""
        plan = super().prepare(stats, rollout, targets, group=group)
        if not self.domain_kl:
            return plan
        factor = torch.ones_like(rollout.old_logp)
        for domain, value in self.domain_kl.items():
            here = (cast(Tensor, rollout.domain) == domain).unsqueeze(-1)
            factor = torch.where(here, value, factor)
        return replace(plan, tokens={**plan.tokens, "kl": factor})

    def token_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The base's loss, of the policy restricted to the ids that the sampler kept."""
        if rollout.support is not None:
            if stats.support_logp is None:
                raise ValueError("stats.support_logp: expected a tensor for Rollout.support")
            stats = stats._replace(logp=stats.support_logp)
        return super().token_loss(stats, rollout, targets, plan)
