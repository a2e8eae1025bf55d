"""DAPO: clip-higher, dynamic sampling, token-level loss, soft overlong punishment."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from entropy_ext.recipes.clip_higher import ClipHigher
from entropy_ext.recipes.types import Sampling
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_flag
from entropy_ext.rl.groups import Groups
from entropy_ext.rl.precision import at_least_float32
from entropy_ext.rl.rewards import soft_overlong
from entropy_ext.rl.rollout import Rollout

__all__ = ["Dapo"]


class Dapo(ClipHigher):
    """Decoupled clip and dynamic sampling policy optimization.

    Against GRPO: the ratio may rise to 1.28 and fall to 0.8; groups that are all right or all wrong
    are dropped and replaced by new ones; the loss is a mean over the tokens of the mini-batch; a
    penalty on the last `overlong_buffer` tokens before the limit is added to the reward.

    "DAPO: An Open-Source LLM Reinforcement Learning System at Scale" (arXiv 2503.14476, eq. 8 to
    13): 512 prompts × 16, 16 optimizer steps per rollout, limit 20480 tokens, buffer 4096, rewards
    ±1 (with rewards 0 and 1, overlong_factor=0.5 gives the same balance). The released script sets
    a dual clip (dual_clip=10) and no floor (overlong_floor=−inf). As in the script, and unlike the
    paper's text, a group of one is kept.

    Args:
        overlong_buffer: tokens; None: a fifth of the limit, as in the paper.
        overlong_limit: tokens; None: the max_length of the rollout.
        overlong_factor: weight of the penalty; 0 turns it off.
        overlong_floor: lowest value of the penalty before that weight.
        dynamic_sampling: drop groups that are all right or all wrong.
        options: the remaining arguments of `ClipHigher`.
    """

    name: ClassVar[str] = "dapo"
    paper: ClassVar[str] = "arXiv 2503.14476"
    needs: frozenset[str] = frozenset({"correct"})
    aggregation: Aggregation = "token-mean"
    minibatches: int = 16
    # The script allows 10 generation batches per step, the first included.
    sampling: Sampling = Sampling(group_size=16, refill=9)

    def __init__(
        self,
        *,
        overlong_buffer: int | None = None,
        overlong_limit: int | None = None,
        overlong_factor: float = 1.0,
        overlong_floor: float = -1.0,
        dynamic_sampling: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.overlong_factor = check_bound(
            "overlong_factor", overlong_factor, at_least=0, finite=True
        )
        self.overlong_floor = check_bound("overlong_floor", overlong_floor, at_most=0)
        whole: dict[str, Any] = {"at_least": 1, "integer": True, "optional": True}
        self.overlong_limit = check_bound("overlong_limit", overlong_limit, **whole)
        if overlong_limit is not None:
            whole["at_most"] = overlong_limit
        self.overlong_buffer = check_bound("overlong_buffer", overlong_buffer, **whole)
        self.dynamic_sampling = check_flag("dynamic_sampling", dynamic_sampling)

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """Rewards with the soft overlong penalty added."""
        if self.overlong_factor == 0:
            return rollout.rewards
        limit = rollout.max_length if self.overlong_limit is None else self.overlong_limit
        buffer = max(limit // 5, 1) if self.overlong_buffer is None else self.overlong_buffer
        penalty = soft_overlong(rollout.lengths, limit, buffer, floor=self.overlong_floor)
        rewards = at_least_float32(rollout.rewards)
        return rewards + self.overlong_factor * penalty.to(rewards.dtype)

    def keep(self, rollout: Rollout) -> Tensor:
        """Responses of groups with both right and wrong answers, and those alone in their group."""
        if not self.dynamic_sampling:
            return super().keep(rollout)
        self.check(rollout)
        # On correctness, not on the reward: with the penalty, rewards differ even in an all-right
        # group.
        groups = Groups(rollout.prompt)
        return groups.varies(cast(Tensor, rollout.correct)) | (groups.size == 1)
