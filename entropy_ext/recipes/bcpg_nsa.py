"""BCPG-NSA: learns from stored responses, sparing the correct steps of wrong ones."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.dynamic_sampling import DynamicSampling
from entropy_ext.recipes.mean_baseline import MeanBaseline
from entropy_ext.recipes.types import Plan, Sampling, Targets
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, bcpg_nsa
from entropy_ext.rl.rollout import Rollout

__all__ = ["BcpgNsa"]


class BcpgNsa(MeanBaseline, DynamicSampling):
    """Behavior Constrained Policy Gradient with Negative Sample Augmentation.

    Against GRPO: stored responses of a reference policy; A = r − mean_g r; the loss is −w·A·logp,
    with w = beta on the correct steps of wrong responses and 1 elsewhere, without ratio or clip;
    plus tau/2 times the squared log-ratio of each whole response to the reference.

    "Unearthing Gems from Stones: Policy Optimization with Negative Sample Augmentation for LLM
    Reasoning" (arXiv 2505.14403). In the paper: 8 passes over 2069 questions × 32 responses at
    temperature 0.7, mini-batches of 512; a beta below 1, even −0.5, did better than 1. A step
    counts as correct (Rollout.step_correct) if both a judge model and a process reward model say
    so. No code was released. Here, a training step is one stored mini-batch.

    Args:
        beta: −1 to 1: 1 keeps the penalty, 0 removes it, below 0 it becomes a reward.
        tau: weight of the squared log-ratio.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "bcpg_nsa"
    paper: ClassVar[str] = "arXiv 2505.14403"
    needs: frozenset[str] = frozenset({"correct", "ref_logp", "step_correct"})
    whole_sequences: bool = True
    minibatches: int = 1
    sampling: Sampling = Sampling(group_size=32, temperature=0.7, offline=True)

    def __init__(self, *, beta: float = 0.5, tau: float = 1e-3, **options: Any) -> None:
        self.refuse(options, "clip_low", "clip_high", "dual_clip")
        super().__init__(**options)
        check_bound("beta", beta, at_least=-1, at_most=1)
        check_bound("tau", tau, at_least=0)
        self.beta = beta
        self.tau = tau

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Log-likelihood weighted by the advantage, with the pull towards the reference."""
        wrong = ~cast(Tensor, rollout.correct).unsqueeze(-1)
        return bcpg_nsa(
            stats.logp,
            cast(Tensor, rollout.ref_logp),
            targets.advantages,
            plan.mask,
            wrong & cast(Tensor, rollout.step_correct),
            beta=self.beta,
            tau=self.tau,
        )
