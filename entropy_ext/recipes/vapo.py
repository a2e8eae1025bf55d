"""VAPO: value-based advantages for long responses."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from entropy_ext.recipes.clip_higher import ClipHigher
from entropy_ext.recipes.positive_nll import PositiveNLL
from entropy_ext.recipes.types import Group, Targets
from entropy_ext.rl.advantages import (
    batch_whiten,
    decoupled_gae,
    length_adaptive_decay,
    terminal_rewards,
)
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_flag
from entropy_ext.rl.losses import TokenLoss, value_loss
from entropy_ext.rl.rollout import Rollout

__all__ = ["Vapo"]


class Vapo(PositiveNLL, ClipHigher):
    """Value-based Augmented Proximal Policy Optimization.

    Against GRPO: advantages come from a value head by GAE, whose λ is 1 − 1/(α·l) for the policy
    and 1 for the targets of the head; for the first 50 steps only the head is trained, on returns;
    clip-higher and a mean over tokens as in DAPO; and the likelihood of right responses is added to
    the loss, L = L_clip + μ·(−Σ logp over their tokens / number of those tokens).

    "VAPO: Efficient and Reliable Reinforcement Learning for Advanced Reasoning Tasks"
    (arXiv 2504.05118): 512 prompts × 16, mini-batches of 512 responses. No code was released, and
    the paper specifies neither whitening (which verl and NeMo-RL do) nor a bound on the value loss.

    Args:
        alpha: α of the policy's length-adaptive λ.
        decay: a constant λ for the policy instead; 0.95 in the ablation.
        critic_decay: λ of the value head's targets.
        gamma: discount.
        whiten: normalise the advantages of a rollout to mean 0 and variance 1.
        value_clip: bound on how far an update may move a value, or None.
        value_pretraining: initial steps that train only the value head.
        options: the remaining arguments of `PositiveNLL` (nll_coef, μ) and `ClipHigher`.
    """

    name: ClassVar[str] = "vapo"
    paper: ClassVar[str] = "arXiv 2504.05118"
    needs: frozenset[str] = frozenset({"values", "correct"})
    aggregation: Aggregation = "token-mean"
    minibatches: int = 16
    value_pretraining: int = 50

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        decay: float | None = None,
        critic_decay: float = 1.0,
        gamma: float = 1.0,
        whiten: bool = True,
        value_clip: float | None = None,
        value_pretraining: int = 50,
        **options: Any,
    ) -> None:
        self.refuse(options, "eps", "singleton")
        super().__init__(**options)
        self.alpha = check_bound("alpha", alpha, above=0)
        self.decay = check_bound("decay", decay, at_least=0, at_most=1, optional=True)
        self.critic_decay = check_bound("critic_decay", critic_decay, at_least=0, at_most=1)
        self.gamma = check_bound("gamma", gamma, at_least=0, at_most=1)
        self.whiten = check_flag("whiten", whiten)
        self.value_clip = check_bound("value_clip", value_clip, above=0, optional=True)
        check_bound("value_pretraining", value_pretraining, at_least=0, integer=True)
        self.value_pretraining = value_pretraining

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """Advantages with the policy's λ, returns with the critic's."""
        self.check(rollout)
        values, mask = cast(Tensor, rollout.values), rollout.mask
        decay: Tensor | float | None = self.decay
        if decay is None:
            decay = length_adaptive_decay(rollout.lengths, alpha=self.alpha, dtype=torch.float64)
        advantages, returns = decoupled_gae(
            terminal_rewards(rollout.rewards, mask),
            values,
            mask,
            gamma=self.gamma,
            decay=decay,
            critic_decay=self.critic_decay,
        )
        if self.whiten:
            advantages = batch_whiten(advantages, mask, unbiased=True, group=group)
        return Targets(advantages, returns)

    def value_loss(self, values: Tensor, rollout: Rollout, targets: Targets) -> TokenLoss:
        """Squared error of the value head."""
        old_values, returns = cast(Tensor, rollout.values), cast(Tensor, targets.returns)
        return value_loss(values, old_values, returns, rollout.mask, clip=self.value_clip)
