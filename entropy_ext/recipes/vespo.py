"""VESPO: responses get less weight as the product of their ratios moves away from 1."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Plan, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.losses import TokenLoss, vespo
from entropy_ext.rl.rollout import Rollout

__all__ = ["Vespo"]


class Vespo(Recipe):
    """Variational sequence-level soft policy optimization.

    Against GRPO: −sg(φ(W))·A·logp, where W is the product of the ratios in a response and φ =
    W^k·exp(λ(1 − W)), with k and λ by the sign of A; mean over tokens.

    VESPO (arXiv 2602.10693), as in TRL.

    Args:
        k_positive: k where A ≥ 0.
        lambda_positive: λ where A ≥ 0.
        k_negative: k where A < 0.
        lambda_negative: λ where A < 0.
        options: the remaining arguments of `Recipe`; there is no clip.
    """

    name: ClassVar[str] = "vespo"
    paper: ClassVar[str] = "arXiv 2602.10693"
    aggregation: Aggregation = "token-mean"
    whole_sequences: bool = True

    def __init__(
        self,
        *,
        k_positive: float = 2.0,
        lambda_positive: float = 3.0,
        k_negative: float = 3.0,
        lambda_negative: float = 2.0,
        **options: Any,
    ) -> None:
        self.refuse(options, "clip_low", "clip_high", "dual_clip")
        super().__init__(**options)
        exponents = {
            "k_positive": k_positive,
            "lambda_positive": lambda_positive,
            "k_negative": k_negative,
            "lambda_negative": lambda_negative,
        }
        for name, value in exponents.items():
            check_bound(name, value, at_least=0)
        self.k_positive = k_positive
        self.lambda_positive = lambda_positive
        self.k_negative = k_negative
        self.lambda_negative = lambda_negative

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Log-likelihood with the weight of the response."""
        return vespo(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            k_positive=self.k_positive,
            lambda_positive=self.lambda_positive,
            k_negative=self.k_negative,
            lambda_negative=self.lambda_negative,
        )
