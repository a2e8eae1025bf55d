"""Two-sided clipping: an upper bound on the ratio also for negative advantages."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext.recipes.base import Recipe

__all__ = ["TwoSided"]


class TwoSided(Recipe):
    """INTELLECT-2's two-sided clipping.

    Against GRPO: L = max(−A·min(ρ, δ), −A·clip(ρ, 1 − clip_low, 1 + clip_high)). δ is above 1 +
    clip_high, so it acts only where A < 0, and the loss is that of a dual clip at δ.

    "INTELLECT-2" (arXiv 2505.07291), with the clip of 0.2 and δ = 4 of TRL's documentation.

    Args:
        dual_clip: δ > 1.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "two_sided"
    paper: ClassVar[str] = "arXiv 2505.07291"

    def __init__(self, *, dual_clip: float | None = 4.0, **options: Any) -> None:
        super().__init__(dual_clip=dual_clip, **options)
