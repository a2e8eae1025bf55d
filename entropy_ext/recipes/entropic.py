"""EntroPIC: a controller holds the entropy by shifting weight between right and wrong answers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Group, Plan, Sampling, Statistics, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice, check_flag
from entropy_ext.rl.controllers import EntropyPI
from entropy_ext.rl.losses import TokenLoss, confidence_pull
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.statistics import masked_mean

__all__ = ["Entropic"]

Denominator = Literal["high", "all"]


class Entropic(Recipe):
    """Entropy stabilisation with proportional-integral control.

    Against GRPO: + α·(−ρ|A|) on tokens with a probability above `confident`, where the controller
    `EntropyPI` sets α from the mean entropy of the mini-batch; exactly on policy, one optimizer
    step per rollout; dual clip 3; mean over tokens. A confident token thus has weight 1 + α if A >
    0, and 1 − α if A < 0.

    "EntroPIC" (arXiv 2511.15248): 512 prompts × 8 at temperature 0.6. As in the released code, the
    new term is averaged over the confident tokens only (denominator="high"), so that their weights
    are 1 ± α·N/N_high; the paper's 1 ± α is denominator="all". α is the same for the whole
    optimizer step.

    Args:
        target: entropy to hold, nats.
        kp: α per nat of error.
        ki: α per nat of accumulated error.
        confident: probability above which a token is affected, in (0, 1).
        denominator: "high" or "all", see above.
        anti_windup: see `rl.controllers.EntropyPI`; not in the released code.
        dual_clip: bound on the ratio where the advantage is negative, or None.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "entropic"
    paper: ClassVar[str] = "arXiv 2511.15248"
    aggregation: Aggregation = "token-mean"
    statistics: Statistics = "minibatch"
    minibatches: int = 1
    sampling: Sampling = Sampling(group_size=8, temperature=0.6)

    def __init__(
        self,
        *,
        target: float = 0.1,
        kp: float = 1.0,
        ki: float = 0.01,
        confident: float = 0.95,
        denominator: Denominator = "high",
        anti_windup: bool = False,
        dual_clip: float | None = 3.0,
        **options: Any,
    ) -> None:
        super().__init__(dual_clip=dual_clip, **options)
        self.confident = check_bound("confident", confident, above=0, at_most=1)
        self.denominator = check_choice("denominator", denominator, get_args(Denominator))
        check_flag("anti_windup", anti_windup)
        self.controller = EntropyPI(target, kp=kp, ki=ki, anti_windup=anti_windup)

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The base's plan, the confident tokens and their α."""
        plan = super().prepare(stats, rollout, targets, group=group)
        stats = statistics_of(self, stats, rollout)
        # Over all tokens, even if another part of a composition learns from only some of them.
        known = rollout.mask & torch.isfinite(stats.entropy)
        alpha = self.controller.step(masked_mean(stats.entropy, known, group=group))
        high = plan.mask & (stats.logp > math.log(self.confident))
        if self.denominator == "high":
            share = masked_mean(high.to(stats.logp.dtype), plan.mask, group=group)
            alpha = torch.where(share > 0, alpha / share, 0.0)
        coefficients = {**plan.coefficients, "confident": alpha}
        return replace(plan, coefficients=coefficients, tokens={**plan.tokens, "confident": high})

    def token_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The base's loss and the controlled term."""
        loss, metrics = super().token_loss(stats, rollout, targets, plan)
        pull = confidence_pull(
            stats.logp, rollout.old_logp, targets.advantages, plan.tokens["confident"]
        )
        return TokenLoss(loss + plan.coefficients["confident"] * pull, metrics)
