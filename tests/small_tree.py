"""The task of the laboratory's tests: trees of 27 responses, three prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.lab.task import Task
from sim.lab.tasks import token_tree


def small_tree(seeds: Sequence[int], **options: Any) -> Task:
    """A row for each seed, so small that a test can look at every response."""
    return token_tree(seeds, prompts=3, vocab=3, max_length=3, answers=3, **options)
