"""Rewarding the unlikely: counters GRPO's bias towards answers that are already likely."""

from __future__ import annotations

from typing import Any, ClassVar, cast, get_args

from torch import Tensor

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Sampling
from entropy_ext.rl.advantages import UnlikelinessForm, unlikeliness_reward
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice, check_flag
from entropy_ext.rl.groups import Groups
from entropy_ext.rl.rollout import Rollout

__all__ = ["Unlikeliness"]


class Unlikeliness(Recipe):
    """The reward of a right answer decreases with its likelihood rank in the group.

    Against GRPO: r becomes r·(1 − beta·rank/G), where rank 0 is the least likely of the group by
    mean old_logp; groups that are all right or all wrong are dropped; two passes over each rollout;
    mean over the tokens of the mini-batch; k3 penalty on the divergence from the reference.

    "Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening" (arXiv 2506.02355).
    In the paper: groups of 32, one mini-batch of 256 responses collected over several batches. The
    default form of the rank is that of the released code; form="paper" is that of the paper
    according to a port, smaller by beta/G for every right answer.

    Args:
        beta: 0 leaves the rewards unchanged.
        form: "code" or "paper", see `rl.advantages.unlikeliness_reward`.
        filter_groups: drop groups that are all right or all wrong. If False, a group that is all
            right reduces the probability of its likely answers.
        kl_coef: weight of the penalty on the divergence from the reference.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "unlikeliness"
    paper: ClassVar[str] = "arXiv 2506.02355"
    needs: frozenset[str] = frozenset({"correct"})
    aggregation: Aggregation = "token-mean"
    minibatches: int = 1
    epochs: int = 2
    sampling: Sampling = Sampling(group_size=32)

    def __init__(
        self,
        *,
        beta: float = 0.25,
        form: UnlikelinessForm = "code",
        filter_groups: bool = True,
        kl_coef: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(kl_coef=kl_coef, **options)
        check_bound("beta", beta, at_least=0, at_most=1)
        check_choice("form", form, get_args(UnlikelinessForm))
        self.beta = beta
        self.form: UnlikelinessForm = form
        check_flag("filter_groups", filter_groups)
        self.filter_groups = filter_groups

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """Rewards discounted by likelihood rank."""
        return unlikeliness_reward(
            rollout.rewards,
            rollout.old_logp,
            rollout.prompt,
            rollout.mask,
            beta=self.beta,
            form=self.form,
        )

    def keep(self, rollout: Rollout) -> Tensor:
        """Groups with both right and wrong answers."""
        if not self.filter_groups:
            return super().keep(rollout)
        self.check(rollout)
        return Groups(rollout.prompt).varies(cast(Tensor, rollout.correct))
