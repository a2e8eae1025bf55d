"""Prompts whose answers agree come first: a part for `compose`, and half of SENT."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import PromptStats
from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.curriculum import semantic_stages

__all__ = ["SemanticCurriculum"]


class SemanticCurriculum(Recipe):
    """GRPO on prompts with low semantic entropy first and those with high semantic entropy last.

    The trainer measures the semantic entropy of each prompt before training, with the initial
    policy; prompts that were not measured are drawn in every stage.

    "Efficient RL with Semantic and Token Entropy for LLM Reasoning" (arXiv 2512.04359).

    Args:
        stages: number of parts of equal size into which the prompts are split; 1: no curriculum.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "semantic_curriculum"
    paper: ClassVar[str] = "arXiv 2512.04359"

    def __init__(self, *, stages: int = 2, **options: Any) -> None:
        super().__init__(**options)
        check_bound("stages", stages, at_least=1, integer=True)
        self.stages = stages

    def select_prompts(self, prompt_stats: PromptStats, progress: float) -> Tensor:
        """The prompts of this stage."""
        if self.stages == 1:
            return super().select_prompts(prompt_stats, progress)
        if prompt_stats.semantic_entropy is None:
            raise ValueError(
                f"recipe {self.name} needs PromptStats.semantic_entropy, which is None"
            )
        return semantic_stages(prompt_stats.semantic_entropy, progress, stages=self.stages)
