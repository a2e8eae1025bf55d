"""PSR, NSR and W-REINFORCE: separate weights for right and wrong answers."""

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
    """Weighted REINFORCE: right answers have a tenth of the weight of wrong ones.

    Against GRPO: A = positive_weight for right answers and −1 for wrong ones, without a baseline or
    groups; the loss is a mean over all tokens of the mini-batch.

    "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning" (arXiv 2506.01347). In
    the paper: 1024 prompts × 8, 4 optimizer steps per rollout. The released scripts have an entropy
    bonus of 0.001 (entropy_coef=0.001), which the paper's loss does not have.

    Args:
        positive_weight: λ ≥ 0. With 0 this is not `nsr`: the tokens of right answers still count in
            the mean and in the mini-batches, which weakens the gradient of wrong ones.
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
        """The weighted sign of the outcome; rewards are not used."""
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
    """Positive sample reinforcement: learns from right answers only, A = 1.

    Wrong answers are dropped before the update, so that the mean is over the tokens of right ones.
    In the paper it is best at pass@1, but worse than the untrained model at large k.

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
    """Negative sample reinforcement: learns from wrong answers only, A = −1.

    Right answers are dropped before the update, so that the mean is over the tokens of wrong ones.
    Probability moves from wrong tokens to the others in proportion to their probabilities, which
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
