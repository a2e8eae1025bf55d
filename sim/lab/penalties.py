"""What the estimators of a KL penalty are on average: their gradients, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from entropy_ext.rl.losses import KLEstimator, kl_penalty
from sim.lab.draws import normals
from sim.lab.enumeration import relative_error
from sim.lab.tables import Cell

__all__ = ["divergence_gradient", "penalty_bias", "penalty_gradient"]

LOGITS, REFERENCE, OLD = 52, 53, 54
"""streams of random numbers"""


def penalty_gradient(logits: Tensor, reference: Tensor, old: Tensor, name: KLEstimator) -> Tensor:
    """Gradient of an estimator on the logits [N, V], its mean over what `old` writes."""
    leaf = logits.clone().requires_grad_()
    logp = leaf.log_softmax(-1)
    written = old.log_softmax(-1)
    loss, _ = kl_penalty(
        logp,
        reference.log_softmax(-1),
        torch.ones_like(logits, dtype=torch.bool),
        estimator=name,
        old_logp=written if name == "unbiased" else None,
    )
    (gradient,) = torch.autograd.grad((written.exp() * loss).sum(), leaf)
    return gradient


def divergence_gradient(logits: Tensor, reference: Tensor) -> Tensor:
    """∇KL(π ‖ π_ref) on the logits [N, V]."""
    leaf = logits.clone().requires_grad_()
    logp = leaf.log_softmax(-1)
    divergence = (logp.exp() * (logp - reference.log_softmax(-1))).sum()
    (gradient,) = torch.autograd.grad(divergence, leaf)
    return gradient


def penalty_bias(
    seeds: Tensor,
    estimators: Sequence[KLEstimator],
    *,
    vocab: int,
    distances: Sequence[float],
    ages: Mapping[str, float],
) -> dict[tuple[Cell, ...], Tensor]:
    """Relative error of each estimator's gradient, for random policies.

    Args:
        seeds: [N].
        estimators: which.
        vocab: tokens.
        distances: nats of noise that the reference is away by.
        ages: name → nats of noise that the policy that wrote is away by.

    Returns:
        (estimator, age, distance) → [N].
    """
    streams = (LOGITS, REFERENCE, OLD)
    logits, away, moved = (normals(seeds, stream, shape=(vocab,)) for stream in streams)
    errors: dict[tuple[Cell, ...], Tensor] = {}
    for distance in distances:
        reference = logits + distance * away
        truth = divergence_gradient(logits, reference)
        for age, lag in ages.items():
            for name in estimators:
                found = penalty_gradient(logits, reference, logits + lag * moved, name)
                errors[name, age, distance] = relative_error(found, truth)
    return errors
