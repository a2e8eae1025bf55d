"""The survey's "starter" configuration."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext.recipes.composite import composite
from entropy_ext.recipes.high_entropy_tokens import HighEntropyTokens
from entropy_ext.recipes.psr_nsr import WReinforce
from entropy_ext.recipes.types import Sampling

__all__ = ["Starter"]


@composite
class Starter(WReinforce, HighEntropyTokens):
    """Clip-higher, the 20 % of tokens with the highest entropy, and W-REINFORCE's advantages.

    The same as `compose("grpo", "clip_higher", "high_entropy_tokens", "w_reinforce")` without
    DAPO's group filter, overlong penalty and dual clip, which the survey does not mention. The
    filter would remove the groups that are all right or all wrong, from which W-REINFORCE learns
    because it has no baseline.

    Args:
        fraction: fraction of the tokens to learn from.
        positive_weight: λ of W-REINFORCE.
        clip_low: the ratio may fall to 1 − clip_low.
        clip_high: the ratio may rise to 1 + clip_high.
        options: the remaining arguments of `HighEntropyTokens`, `Dapo` and `Recipe`.
    """

    name: ClassVar[str] = "starter"
    paper: ClassVar[str] = "arXiv 2503.14476; arXiv 2506.01939; arXiv 2506.01347"
    minibatches: int = 4
    sampling: Sampling = Sampling()

    def __init__(
        self,
        *,
        fraction: float = 0.2,
        positive_weight: float = 0.1,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        **options: Any,
    ) -> None:
        off = {"dynamic_sampling": False, "overlong_factor": 0.0, "dual_clip": None}
        super().__init__(
            fraction=fraction,
            positive_weight=positive_weight,
            clip_low=clip_low,
            clip_high=clip_high,
            **{**off, **options},
        )
