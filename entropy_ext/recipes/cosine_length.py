"""A scheduled reward for short responses: a term of ProRL v2, as a part for `compose`."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from entropy_ext.recipes.base import Recipe
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.precision import at_least_float32
from entropy_ext.rl.rewards import cosine_length
from entropy_ext.rl.rollout import Rollout

__all__ = ["CosineLength"]


class CosineLength(Recipe):
    """GRPO with, in some of the steps, cosine_coef times a reward that falls with length.

    The reward falls from 0 to −1 at the limit, as half a cosine: see `rl.rewards.cosine_length`.

    "Scaling LLM Reinforcement Learning with Prolonged Training Using ProRL v2" (NVIDIA, August
    2025), for example on for 100 steps and off for 500. Its formula could not be verified, and its
    weight is not given.

    Args:
        cosine_coef: weight of the reward; 0 turns it off.
        cosine_on: number of steps with it.
        cosine_off: number of steps without it that follow.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "cosine_length"
    paper: ClassVar[str] = "NVIDIA, ProRL v2"

    def __init__(
        self,
        *,
        cosine_coef: float = 0.0,
        cosine_on: int = 100,
        cosine_off: int = 500,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.cosine_coef = check_bound("cosine_coef", cosine_coef, at_least=0, finite=True)
        self.cosine_on = check_bound("cosine_on", cosine_on, at_least=0, integer=True)
        check_bound("cosine_off", cosine_off, at_least=0 if cosine_on else 1, integer=True)
        self.cosine_period = cosine_on + cosine_off

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """The rewards, with the cosine term while it is on."""
        if self.cosine_coef == 0 or rollout.step % self.cosine_period >= self.cosine_on:
            return rollout.rewards
        term = cosine_length(rollout.lengths, rollout.max_length)
        rewards = at_least_float32(rollout.rewards)
        return rewards + self.cosine_coef * term.to(rewards.dtype)
