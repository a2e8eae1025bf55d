"""The survey's "advanced" configuration."""

from __future__ import annotations

from typing import Any, ClassVar

from entropy_ext.recipes.clip_cov import ClipCov
from entropy_ext.recipes.composite import composite
from entropy_ext.recipes.entropic import Entropic
from entropy_ext.recipes.semantic_curriculum import SemanticCurriculum
from entropy_ext.recipes.types import Sampling

__all__ = ["Advanced"]


@composite
class Advanced(SemanticCurriculum, Entropic, ClipCov):
    """Clip-Cov, EntroPIC's controller, and prompts with low semantic entropy first.

    The same as `compose("clip_cov", "entropic", "semantic_curriculum")`; with KL-Cov, use
    `compose("kl_cov", "entropic", "semantic_curriculum")`. Clip-Cov's loss has no dual clip. Its
    number of optimizer steps per rollout replaces EntroPIC's single step; the controller's integral
    part corrects for the resulting drift.

    Args:
        fraction: of all response tokens, left out by Clip-Cov.
        target: entropy to hold, nats.
        kp: α per nat of error.
        ki: α per nat of accumulated error.
        stages: stages of the curriculum; 1 turns it off.
        options: the remaining arguments of `Entropic`, `ClipCov` and `Recipe`.
    """

    name: ClassVar[str] = "advanced"
    paper: ClassVar[str] = "arXiv 2505.22617; arXiv 2511.15248; arXiv 2512.04359"
    minibatches: int = ClipCov.minibatches
    sampling: Sampling = ClipCov.sampling

    def __init__(
        self,
        *,
        fraction: float = 2e-4,
        target: float = 0.1,
        kp: float = 1.0,
        ki: float = 0.01,
        stages: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(fraction=fraction, target=target, kp=kp, ki=ki, stages=stages, **options)
