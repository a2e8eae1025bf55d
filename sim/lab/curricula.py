"""Orders of prompts to hold SENT's against, and what the order follows at the start."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.recipes import PromptStats, SemanticCurriculum
from entropy_ext.rl.curriculum import semantic_stages
from sim.lab.exact import Policy, semantic_entropy
from sim.lab.tables import Table
from sim.lab.task import Task

__all__ = ["EveryOtherFirst", "HighFirst", "difficulty"]


class HighFirst(SemanticCurriculum):
    """The reverse of SENT's: prompts of high semantic entropy first."""

    def select_prompts(self, prompt_stats: PromptStats, progress: float) -> Tensor:
        assert prompt_stats.semantic_entropy is not None
        return semantic_stages(-prompt_stats.semantic_entropy, progress, stages=self.stages)


class EveryOtherFirst(SemanticCurriculum):
    """As many stages, each as hard as the other: neighbours on the grid of difficulty part."""

    def select_prompts(self, prompt_stats: PromptStats, progress: float) -> Tensor:
        odd = torch.arange(len(prompt_stats.attempts)) % self.stages
        return semantic_stages(odd.double(), progress, stages=self.stages)


def difficulty(task: Task) -> Table:
    """Of the start, for each seed and prompt trained on: semantic entropy, nats; success."""
    policy = Policy.of(task.tree, task.logits(task.start))
    entropies = semantic_entropy(policy, task.answers)[:, task.trained]
    chances = policy.mean(task.correct.double())[:, task.trained]
    rows = [
        (n, prompt, *pair)
        for n, seed in enumerate(torch.stack([entropies, chances], -1).tolist())
        for prompt, pair in enumerate(seed)
    ]
    return Table.of(("seed", "prompt", "semantic_entropy", "success"), rows)
