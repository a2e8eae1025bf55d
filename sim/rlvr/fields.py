"""The optional fields of a rollout, each made only for a recipe that needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from entropy_ext import TokenStats
from sim.rlvr.sampling import Samples
from sim.rlvr.task import ChainSum

__all__ = ["SUPPLIED", "Sources", "kept_only", "supplied"]


@dataclass(frozen=True)
class Sources:
    """B responses and what was found out about them."""

    task: ChainSum
    problems: Tensor
    """[B] int64"""
    texts: list[str]
    samples: Samples
    correct: Tensor
    """[B] bool"""
    stats: TokenStats
    """of the policy that wrote them"""
    reference: TokenStats
    values: Callable[[], Tensor]


def _answers(of: Sources) -> list[str | None]:
    return [of.task.answer(text) for text in of.texts]


def _step_correct(of: Sources) -> Tensor:
    return of.task.score_steps(of.problems.tolist(), of.samples.tokens, of.samples.mask)


# What the teacher writes it writes with certainty.
_FIELDS: dict[str, Callable[[Sources], Any]] = {
    "old_entropy": lambda of: kept_only(of.stats).entropy,
    "ref_logp": lambda of: kept_only(of.reference).logp,
    "rollout_logp": lambda of: of.samples.logp,
    "values": lambda of: of.values(),
    "correct": lambda of: of.correct,
    "answers": _answers,
    "truncated": lambda of: of.samples.truncated,
    "teacher": lambda of: of.samples.teacher[:, None] & of.samples.mask,
    "teacher_logp": lambda of: torch.zeros_like(of.samples.logp),
    "step_correct": _step_correct,
    "domain": lambda of: of.task.domain[of.problems],
    "support": lambda of: of.samples.support(),
}

SUPPLIED = frozenset(_FIELDS)
"""The optional Rollout fields that can be made here; a recipe that needs another is refused."""


def supplied(needs: frozenset[str], sources: Sources) -> dict[str, Any]:
    """Rollout fields by name: those in `needs` and no others."""
    return {name: make(sources) for name, make in _FIELDS.items() if name in needs}


def kept_only(stats: TokenStats) -> TokenStats:
    """Statistics renormalised over what the sampler kept, where it kept a record."""
    if stats.support_logp is None:
        return stats
    return stats._replace(logp=stats.support_logp, entropy=cast(Tensor, stats.support_entropy))
