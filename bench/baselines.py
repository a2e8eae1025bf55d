"""What frameworks compute today, as plain PyTorch, for logits [N, V] and tokens [N].

Each function returns (logp, entropy), both [N]. All are at temperature 1 and leave out the
division by the temperature that TRL and verl do first (one more read and write of the logits), so
the comparison errs in their favour. TRL's and verl's outputs keep the logits' dtype, as theirs do.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_softmax_statistics", "trl_statistics", "verl_statistics"]

SEQUENCE_TOKENS = 128
"""Tokens of one completion: TRL and verl take log-probabilities one sequence at a time."""
ENTROPY_CHUNK = 128
"""Rows that TRL's entropy handles at a time."""


def log_softmax_statistics(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """log_softmax, gather, −Σ p ln p, accumulated and returned in float32 (float64 for float64).

    The baseline `eager`, and compiled the baseline `compile`. Of four ways to write it this one
    compiled to the fastest code.
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    log_p = torch.log_softmax(logits, -1, dtype=dtype)
    return picked(log_p, tokens), -(log_p.exp() * log_p).sum(-1)


def trl_statistics(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """TRL's eager pair: sequence-wise log-probabilities, and the entropy in chunks of rows."""
    entropy = []
    for chunk in logits.split(ENTROPY_CHUNK):
        log_p = torch.log_softmax(chunk, -1)
        entropy.append(-(log_p.exp() * log_p).sum(-1))
    return sequence_logp(logits, tokens), torch.cat(entropy)


def verl_statistics(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """verl's eager pair without flash-attn: as TRL's, but H = lse − Σ p z over all rows at once."""
    p = torch.softmax(logits, -1)
    entropy = torch.logsumexp(logits, -1) - (p * logits).sum(-1)
    return sequence_logp(logits, tokens), entropy


def sequence_logp(logits: Tensor, tokens: Tensor) -> Tensor:
    """ln p[token], sequence by sequence, which bounds the memory of the intermediate.

    float32 and float64 subtract a log-sum-exp from the picked logit; half precision, where that
    would cancel badly, takes the whole log_softmax.
    """
    sequences = logits.split(SEQUENCE_TOKENS)
    if logits.dtype in (torch.float32, torch.float64):
        lse = torch.cat([torch.logsumexp(sequence, -1) for sequence in sequences])
        return picked(logits, tokens) - lse
    return torch.cat(
        [
            picked(torch.log_softmax(sequence, -1), sequence_tokens)
            for sequence, sequence_tokens in zip(
                sequences, tokens.split(SEQUENCE_TOKENS), strict=True
            )
        ]
    )


def picked(values: Tensor, tokens: Tensor) -> Tensor:
    """The entry of each row that its token names."""
    return values.gather(-1, tokens[:, None]).squeeze(-1)
