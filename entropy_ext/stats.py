"""The tuple of per-token numbers that kernels return and recipes read."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["TokenStats"]


class TokenStats(NamedTuple):
    """Per-token numbers of softmax(z/τ), each [...], in nats where it is a logarithm.

    Gradient flows to the logits through logp, entropy and lse only; the extras are None unless
    they were asked for.
    """

    logp: Tensor
    """ln p[token]"""
    entropy: Tensor
    """−Σ p ln p"""
    lse: Tensor
    """ln Σ exp(z/τ)"""
    collision: Tensor | None = None
    """Σ p²"""
    collision_logp: Tensor | None = None
    """Σ p² ln p"""
    varentropy: Tensor | None = None
    """Var_p(ln p)"""
    max_logp: Tensor | None = None
    """max ln p"""
