"""Clip-higher: DAPO's first change alone, a part for `compose`."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext.recipes.base import Recipe

__all__ = ["ClipHigher"]


class ClipHigher(Recipe):
    """GRPO whose ratio may rise further than it may fall, so that rare tokens can gain probability.

    "DAPO: An Open-Source LLM Reinforcement Learning System at Scale" (arXiv 2503.14476, eq. 10).

    Args:
        clip_low: the ratio may fall to 1 − clip_low.
        clip_high: the ratio may rise to 1 + clip_high.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "clip_higher"
    paper: ClassVar[str] = "arXiv 2503.14476"

    def __init__(self, *, clip_low: float = 0.2, clip_high: float = 0.28, **options: Any) -> None:
        super().__init__(clip_low=clip_low, clip_high=clip_high, **options)
