"""Advantages whose update changes the entropy of the batch, to first order, by a given amount."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.precision import at_least_float32

__all__ = ["entropy_neutral", "step_size_squared"]


def step_size_squared(logp: Tensor, collision: Tensor) -> Tensor:
    """Squared length of a token's policy-gradient step on the scaled logits, per unit advantage.

    ‖1[·=a] − p‖² = (1 − p_a)² + Σ_{j≠a} pⱼ²

    No gradient.

    Args:
        logp: [...] ln p_a of the token, nats.
        collision: [...] Σ p², as `token_stats(extras=True)` gives it.

    Returns:
        [...] in [0, 2].
    """
    miss = -torch.expm1(logp.detach())
    # By subtraction, Σ_{j≠a} p² is rounding noise where p_a is near 1; it must lie between these
    # bounds.
    others = (collision - torch.exp(2 * logp.detach())).clamp(min=0)
    return miss.square() + torch.minimum(others, miss.square())


@torch.no_grad()
def entropy_neutral(
    advantages: Tensor,
    change: Tensor,
    size: Tensor,
    mask: Tensor,
    *,
    strength: float = 1.0,
    target: float = 0.0,
    damping: float = 1e-3,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The nearest advantages whose first-order entropy change has a given value.

    A′ᵢ = Aᵢ − κ·cᵢ/(sᵢ + damping),   κ = strength·(Σ c A − N·target) / Σ c²/(s + damping)

    which minimises Σ (s + damping)(A′ − A)² subject to
    Σ c A′ = (1 − strength)·Σ c A + strength·N·target: the change of entropy, summed over tokens,
    moves from the one that A would cause towards the target. No gradient. Derivation:
    docs/derivations.md, section 5. Original to this library; not from a paper.

    Args:
        advantages: [B, T] A.
        change: [B, T] c, the entropy change of a token's step per unit advantage, nats; 0 for
            tokens whose gradient is clipped away. Those keep their advantages.
        size: [B, T] s ≥ 0, the squared length of that step, so that the change of the update is
            minimised rather than the change of the advantages.
        mask: [B, T] bool.
        strength: 0 leaves the advantages unchanged, 1 enforces the target.
        target: wanted change of entropy per token and unit step, nats.
        damping: added to s. Almost certain tokens have c and s near 0, where c is rounding noise;
            damping keeps their advantages unchanged.
        group: ranks that hold the other tokens of the same update.

    Returns:
        [B, T] of advantages' dtype, at least float32; 0 off the mask. If no token changes the
        entropy, the advantages are returned unchanged.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or hyper-parameter.
    """
    check_tensor("advantages", advantages, ndim=2, floating=True)
    check_tensor("change", change, shape=advantages.shape, floating=True)
    check_tensor("size", size, shape=advantages.shape, floating=True)
    check_tensor("mask", mask, shape=advantages.shape, dtype=torch.bool)
    check_bound("strength", strength, at_least=0, at_most=1)
    check_bound("target", target, finite=True)
    check_bound("damping", damping, above=0)
    # Summed in float64: κ is a quotient of sums over the whole batch.
    a, c, s = (torch.where(mask, x, 0.0).double() for x in (advantages, change, size))
    per_size = c / (s + damping)
    sums = torch.stack([(c * a).sum(), (c * per_size).sum(), mask.sum().double()])
    if group is not None:
        dist.all_reduce(sums, group=group)
    total, curvature, tokens = sums.unbind()
    kappa = strength * (total - tokens * target) / curvature
    kappa = torch.where(curvature > 0, kappa, 0.0)
    return (a - kappa * per_size).to(at_least_float32(advantages).dtype)
