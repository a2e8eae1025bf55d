"""All responses that a vocabulary and a longest length allow, as a tree of prefixes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Tree", "grow"]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """S prefixes that a token may follow (the root is 0) and L finished responses.

    States are numbered by length, so that those of one length are neighbours.
    """

    vocab: int
    max_length: int
    end: bool
    """whether token 0 ends a response"""
    states: Tensor
    """[L, T] int64: the prefix before each token; 0 off the mask"""
    tokens: Tensor
    """[L, T] int64; 0 off the mask"""
    mask: Tensor
    """[L, T] bool"""
    truncated: Tensor
    """[L] bool: as long as can be, without an end-of-sequence token although there is one"""
    successor: Tensor
    """[S, V] int64: the state that follows, or S + the response that is then finished"""
    levels: tuple[slice, ...]
    """T slices of the states, by length"""

    @property
    def size(self) -> int:
        """S."""
        return len(self.successor)

    @property
    def responses(self) -> int:
        """L."""
        return len(self.states)


def grow(vocab: int, max_length: int, *, end: bool = False) -> Tree:
    """Every response of up to max_length tokens.

    Args:
        vocab: V ≥ 2.
        max_length: T ≥ 1.
        end: token 0 ends a response, anywhere; without it all have max_length tokens.

    Raises:
        ValueError: a size out of range.
    """
    if vocab < 2:
        raise ValueError(f"vocab: expected at least 2, got {vocab}")
    if max_length < 1:
        raise ValueError(f"max_length: expected at least 1, got {max_length}")
    going_on = range(1 if end else 0, vocab)
    prefixes = [p for n in range(max_length) for p in itertools.product(going_on, repeat=n)]
    number = {prefix: state for state, prefix in enumerate(prefixes)}
    finished = [(*p, 0) for p in prefixes] if end else []
    finished += itertools.product(going_on, repeat=max_length)
    outcome = {response: i for i, response in enumerate(finished)}

    states = torch.zeros(len(finished), max_length, dtype=torch.int64)
    tokens = torch.zeros_like(states)
    mask = torch.zeros_like(states, dtype=torch.bool)
    for row, response in enumerate(finished):
        for t, token in enumerate(response):
            states[row, t] = number[response[:t]]
            tokens[row, t] = token
            mask[row, t] = True
    successor = torch.empty(len(prefixes), vocab, dtype=torch.int64)
    for state, prefix in enumerate(prefixes):
        for token in range(vocab):
            longer = (*prefix, token)
            over = longer in outcome
            successor[state, token] = len(prefixes) + outcome[longer] if over else number[longer]
    starts = [sum(len(going_on) ** n for n in range(t)) for t in range(max_length + 1)]
    last = tokens.gather(1, mask.sum(-1, keepdim=True) - 1)[:, 0]
    return Tree(
        vocab=vocab,
        max_length=max_length,
        end=end,
        states=states,
        tokens=tokens,
        mask=mask,
        truncated=(last != 0) if end else torch.zeros(len(finished), dtype=torch.bool),
        successor=successor,
        levels=tuple(slice(a, b) for a, b in itertools.pairwise(starts)),
    )
