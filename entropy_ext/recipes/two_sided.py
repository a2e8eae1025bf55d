"""Two-sided clipping: the ratio of wrong answers is bounded above as well."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext.recipes.base import Recipe

__all__ = ["TwoSided"]


class TwoSided(Recipe):
    """INTELLECT-2's two-sided clipping.

    Against GRPO: L = max(−A·min(ρ, δ), −A·clip(ρ, 1 − clip_low, 1 + clip_high)). δ lies above
    1 + clip_high, so that it acts for A < 0 alone, and the loss is that of a dual clip at δ.

    "INTELLECT-2" (arXiv 2505.07291), with the clip 0.2 and δ 4 that TRL's documentation gives.

    Args:
        dual_clip: δ > 1.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "two_sided"
    paper: ClassVar[str] = "arXiv 2505.07291"

    def __init__(self, *, dual_clip: float | None = 4.0, **options: Any) -> None:
        super().__init__(dual_clip=dual_clip, **options)
