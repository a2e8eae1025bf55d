"""RLOO: the baseline is the mean over the other responses of the group."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Targets
from entropy_ext.rl.advantages import leave_one_out
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.rollout import Rollout

__all__ = ["Rloo"]


class Rloo(Recipe):
    """REINFORCE leave-one-out.

    Against GRPO: A = r − mean reward of the other responses in the group, without division by the
    standard deviation; the loss of a response is the sum over its tokens, not divided by its
    length; exactly on policy, one optimizer step per rollout, so that the clip never acts.

    "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in
    LLMs" (arXiv 2402.14740). The paper adds a divergence penalty to the reward, which is left out
    here; kl_coef adds one to the loss.

    Args:
        options: the arguments of `Recipe` except eps, as there is no standard deviation.
    """

    name: ClassVar[str] = "rloo"
    paper: ClassVar[str] = "arXiv 2402.14740"
    aggregation: Aggregation = "seq-mean-token-sum"
    minibatches: int = 1

    def __init__(self, **options: Any) -> None:
        self.refuse(options, "eps")
        super().__init__(**options)

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """Reward minus the mean of the others."""
        self.check(rollout)
        return Targets(
            leave_one_out(rollout.rewards, rollout.prompt, rollout.mask, singleton=self.singleton)
        )
