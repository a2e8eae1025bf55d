"""PSR, NSR and W-REINFORCE: what was right and what was wrong, apart."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Sampling, Targets
from entropy_ext.rl.advantages import psr_nsr
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.precision import at_least_float32
from entropy_ext.rl.rollout import Rollout

__all__ = ["Nsr", "Psr", "WReinforce"]


class WReinforce(Recipe):
    """Weighted REINFORCE: right answers pull with a tenth of the weight wrong ones push with.

    Against GRPO: A = positive_weight on a right answer and −1 on a wrong one, with no baseline and
    no group; the loss is a mean over all tokens of the mini-batch.

    "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning" (arXiv 2506.01347).
    Figures there: 1024 prompts × 8, 4 optimizer steps per rollout. The released scripts leave an
    entropy bonus of 0.001 on (entropy_coef=0.001), which the loss of the paper does not have.

    Args:
        positive_weight: λ ≥ 0. At 0 this is not `nsr`: the tokens of right answers still count in
            the mean and fill mini-batches, which dilutes the push by their share.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "w_reinforce"
    paper: ClassVar[str] = "arXiv 2506.01347"
    needs: frozenset[str] = frozenset({"correct"})
    aggregation: Aggregation = "token-mean"
    sampling: Sampling = Sampling(group_size=8)

    def __init__(self, *, positive_weight: float = 0.1, **options: Any) -> None:
        self.refuse(options, "eps", "singleton")
        super().__init__(**options)
        check_bound("positive_weight", positive_weight, at_least=0)
        self.positive_weight = positive_weight

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """The sign of the outcome, weighted; the rewards are not looked at."""
        self.check(rollout)
        return Targets(
            psr_nsr(
                cast(Tensor, rollout.correct),
                rollout.mask,
                positive=self.positive_weight,
                dtype=at_least_float32(rollout.rewards).dtype,
            )
        )


class Psr(WReinforce):
    """Positive sample reinforcement: learn from right answers alone, A = 1.

    Wrong answers are dropped before the update, so that the mean is over the tokens of right ones.
    Best at pass@1, and loses to the untrained model at large k.

    "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning" (arXiv 2506.01347).

    Args:
        options: the arguments of `Recipe`.
    """

    name: ClassVar[str] = "psr"

    def __init__(self, **options: Any) -> None:
        super().__init__(positive_weight=1.0, **options)

    def keep(self, rollout: Rollout) -> Tensor:
        """Right answers."""
        self.check(rollout)
        return cast(Tensor, rollout.correct)


class Nsr(WReinforce):
    """Negative sample reinforcement: learn from wrong answers alone, A = −1.

    Right answers are dropped before the update, so that the mean is over the tokens of wrong ones.
    Probability moves from what was wrong to the other tokens in proportion to what they had, which
    keeps the entropy up.

    "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning" (arXiv 2506.01347).

    Args:
        options: the arguments of `Recipe`.
    """

    name: ClassVar[str] = "nsr"

    def __init__(self, **options: Any) -> None:
        super().__init__(positive_weight=1.0, **options)

    def keep(self, rollout: Rollout) -> Tensor:
        """Wrong answers."""
        self.check(rollout)
        return ~cast(Tensor, rollout.correct)
