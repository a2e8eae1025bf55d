"""Rollout: the sampled responses, in the form that every recipe and every trainer uses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.support import Support

__all__ = ["Rollout", "TokenRows"]

_PER_TOKEN = {
    "old_entropy": None,
    "ref_logp": None,
    "rollout_logp": None,
    "values": None,
    "teacher": torch.bool,
    "teacher_logp": None,
    "step_correct": torch.bool,
}
_PER_SEQUENCE = {"correct": torch.bool, "truncated": torch.bool, "domain": torch.int64}


class TokenRows(Protocol):
    """Any object with one row per token of the batch in row-major order, such as a Support."""

    def rows(self, index: Tensor) -> TokenRows:
        """The rows at `index`, [n] int64."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """B sampled responses, right-padded to T tokens.

    Log-probabilities are in nats, at the sampling temperature. Padding (mask False) may hold
    anything.
    """

    tokens: Tensor
    """[B, T] int64"""
    mask: Tensor
    """[B, T] bool: response tokens, including the end-of-sequence token"""
    rewards: Tensor
    """[B] floating"""
    prompt: Tensor
    """[B] int64: equal for responses to the same prompt"""
    old_logp: Tensor
    """[B, T], of the policy before the first update on this rollout"""
    max_length: int
    """maximum length of a response, tokens"""
    step: int
    """training step, from 0"""
    progress: float
    """fraction of training done, 0 to 1"""
    old_entropy: Tensor | None = None
    """[B, T], of the same policy as old_logp, nats"""
    ref_logp: Tensor | None = None
    """[B, T], of the reference policy"""
    rollout_logp: Tensor | None = None
    """[B, T], as reported by the sampler"""
    values: Tensor | None = None
    """[B, T], of the value head when the rollout was made"""
    correct: Tensor | None = None
    """[B] bool: the checker's verdict, before any shaping"""
    answers: Sequence[Hashable | None] | None = None
    """B extracted answers, None where there is none"""
    truncated: Tensor | None = None
    """[B] bool: stopped by max_length"""
    teacher: Tensor | None = None
    """[B, T] bool: tokens written by a teacher"""
    teacher_logp: Tensor | None = None
    """[B, T], of the teacher"""
    step_correct: Tensor | None = None
    """[B, T] bool: tokens of reasoning steps judged correct"""
    domain: Tensor | None = None
    """[B] int64: kind of task"""
    support: TokenRows | None = None
    """the token ids the sampler kept, one row per token of [B, T]"""

    def __post_init__(self) -> None:
        check_tensor("mask", self.mask, ndim=2, dtype=torch.bool)
        both, rows = self.mask.shape, self.mask.shape[:1]
        check_tensor("tokens", self.tokens, shape=both, dtype=torch.int64)
        check_tensor("old_logp", self.old_logp, shape=both, floating=True)
        check_tensor("rewards", self.rewards, shape=rows, floating=True)
        check_tensor("prompt", self.prompt, shape=rows, dtype=torch.int64)
        check_bound("max_length", self.max_length, at_least=1, integer=True)
        check_bound("step", self.step, at_least=0, integer=True)
        check_bound("progress", self.progress, at_least=0, at_most=1)
        for names, shape in ((_PER_TOKEN, both), (_PER_SEQUENCE, rows)):
            for name, dtype in names.items():
                if (value := getattr(self, name)) is not None:
                    check_tensor(name, value, shape=shape, dtype=dtype, floating=dtype is None)
        if self.answers is not None:
            _check_answers(self.answers, len(self.mask))
        if self.support is not None:
            _check_support(self.support, self.mask)

    @property
    def lengths(self) -> Tensor:
        """[B] int64: response tokens."""
        return self.mask.sum(-1)

    def replace(self, **changes: Any) -> Rollout:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def rows(self, index: Tensor | slice) -> Rollout:
        """The sequences at `index`: int64 positions, a [B] bool mask, or a slice."""
        positions = torch.arange(len(self.mask), device=self.mask.device)[index]
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changes[field.name] = value[positions]
        if self.answers is not None:
            changes["answers"] = [self.answers[i] for i in positions.tolist()]
        if self.support is not None:
            width = self.mask.shape[1]
            columns = torch.arange(width, device=positions.device)
            changes["support"] = self.support.rows((positions[:, None] * width + columns).flatten())
        return replace(self, **changes)


def _check_answers(answers: Sequence[Hashable | None], count: int) -> None:
    if len(answers) != count:
        raise ValueError(f"answers: expected {count}, got {len(answers)}")
    for i, answer in enumerate(answers):
        try:
            hash(answer)
        except TypeError:
            kind = type(answer).__name__
            raise TypeError(f"answers[{i}]: expected a hashable answer, got {kind}") from None


def _check_support(support: TokenRows, mask: Tensor) -> None:
    if not callable(getattr(support, "rows", None)):
        raise TypeError(f"support: expected a Support, got {type(support).__name__}")
    if isinstance(support, Support) and (found := len(support.offsets) - 1) != mask.numel():
        batch, width = mask.shape
        raise ValueError(
            f"support: expected {mask.numel()} rows for [B, T] = [{batch}, {width}], got {found}"
        )
