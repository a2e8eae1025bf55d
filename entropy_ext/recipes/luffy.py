"""LUFFY: one response of each group comes from a teacher."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.mean_baseline import MeanBaseline
from entropy_ext.recipes.types import Plan, Sampling, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_flag
from entropy_ext.rl.losses import TokenLoss, mixed_policy
from entropy_ext.rl.rollout import Rollout

__all__ = ["Luffy"]


class Luffy(MeanBaseline):
    """Learning to reason under off-policy guidance.

    Against GRPO: one response of the group comes from a teacher and counts in the group's mean; on
    its tokens the loss is −A·p/(p + gamma), never clipped, where p is the policy's own probability;
    advantages are not divided by the standard deviation; the loss is a mean over all tokens.

    "Learning to Reason under Off-Policy Guidance" (arXiv 2504.14945). In the paper: 128 prompts ×
    8, one of them the teacher's, and 2 optimizer steps per rollout. The default clips the policy's
    own tokens, as in the paper. The released script does not clip (clip_low=1, clip_high=math.inf)
    and divides by the longest length (aggregation="seq-mean-token-sum-norm", which also divides by
    the number of responses). entropy_coef is that of the script.

    Args:
        gamma: constant of the shaped weight; None weights teacher tokens by p.
        teacher_probabilities: weight teacher tokens by the ratio to Rollout.teacher_logp instead,
            without shaping, as in the released code.
        entropy_coef: weight of the entropy bonus.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "luffy"
    paper: ClassVar[str] = "arXiv 2504.14945"
    needs: frozenset[str] = frozenset({"teacher"})
    aggregation: Aggregation = "token-mean"
    minibatches: int = 2
    sampling: Sampling = Sampling(group_size=8, teacher_traces=1)

    def __init__(
        self,
        *,
        gamma: float | None = 0.1,
        teacher_probabilities: bool = False,
        entropy_coef: float = 0.001,
        **options: Any,
    ) -> None:
        self.refuse(options, "dual_clip")
        super().__init__(entropy_coef=entropy_coef, **options)
        if gamma is not None:
            check_bound("gamma", gamma, above=0)
        self.gamma = gamma
        check_flag("teacher_probabilities", teacher_probabilities)
        self.teacher_probabilities = teacher_probabilities
        if teacher_probabilities:
            self.needs = self.needs | {"teacher_logp"}

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """Clipped on the policy's own tokens, shaped on the teacher's."""
        return mixed_policy(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            teacher=cast(Tensor, rollout.teacher),
            teacher_logp=rollout.teacher_logp if self.teacher_probabilities else None,
            gamma=self.gamma,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
