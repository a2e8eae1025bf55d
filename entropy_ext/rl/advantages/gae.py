"""Generalised advantage estimation, with a separate trace decay for every response."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.precision import at_least_float32

__all__ = ["decoupled_gae", "gae", "length_adaptive_decay", "terminal_rewards"]


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    decay: Tensor | float = 0.95,
) -> Tensor:
    """Advantages from a value function: a decaying sum of its temporal-difference errors.

    δₜ = rₜ + γVₜ₊₁ − Vₜ,   Aₜ = δₜ + γλAₜ₊₁,   V and A being 0 after the last token.

    Tokens where mask is False are skipped: t + 1 is the next response token. The returns that
    belong to these advantages are A + V; for a critic with another λ, call the function again. No
    gradient.

    "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
    (arXiv 1506.02438, eq. 16). Separate λ for policy and critic, and one per response: VAPO (arXiv
    2504.05118).

    Args:
        rewards: [B, T] floating, see `terminal_rewards`.
        values: [B, T].
        mask: [B, T] bool.
        gamma: γ, 0 to 1.
        decay: λ, 0 to 1: a number, or [B], one per response.

    Returns:
        [B, T] of the values' dtype, at least float32; 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_tensor("mask", mask, ndim=2, dtype=torch.bool)
    check_tensor("rewards", rewards, shape=mask.shape, floating=True)
    check_tensor("values", values, shape=mask.shape, floating=True)
    check_bound("gamma", gamma, at_least=0, at_most=1)
    values = at_least_float32(values)
    if isinstance(decay, Tensor):
        check_tensor("decay", decay, shape=mask.shape[:1], floating=True)
        decay = decay.to(values.dtype).unsqueeze(-1)
    else:
        check_bound("decay", decay, at_least=0, at_most=1)
    values = torch.where(mask, values, 0.0)
    # The value of the next response token, computed as such a sum that ends at a response token.
    ahead = _sum_backwards(values, torch.where(mask, 0.0, torch.ones_like(values)))
    ahead = torch.cat([ahead[:, 1:], torch.zeros_like(ahead[:, :1])], 1)
    error = torch.where(mask, rewards + gamma * ahead - values, 0.0).to(values.dtype)
    return torch.where(
        mask, _sum_backwards(error, torch.where(mask, gamma * decay, torch.ones_like(values))), 0.0
    )


@torch.no_grad()
def decoupled_gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    decay: Tensor | float = 0.95,
    critic_decay: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Advantages with the policy's λ, and returns with the critic's λ.

    A = `gae` with decay; R = V + `gae` with critic_decay, which is the sum of future rewards if γ
    and critic_decay are 1. No gradient. VAPO (arXiv 2504.05118).

    Args:
        rewards: [B, T] floating, see `terminal_rewards`.
        values: [B, T].
        mask: [B, T] bool.
        gamma: γ, 0 to 1.
        decay: λ of the advantages: a number, or [B].
        critic_decay: λ of the returns: a number, or [B].

    Returns:
        Advantages and returns, [B, T] of the values' dtype, at least float32; 0 off the mask.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    advantages = gae(rewards, values, mask, gamma=gamma, decay=decay)
    ahead = gae(rewards, values, mask, gamma=gamma, decay=critic_decay)
    return advantages, torch.where(mask, ahead + values, 0.0)


def length_adaptive_decay(
    lengths: Tensor, *, alpha: float = 0.05, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A trace decay whose weights, Σₜ λᵗ ≈ 1/(1 − λ), sum to a fixed fraction of the length.

    λ = max(1 − 1/(α·l), 0)

    VAPO (arXiv 2504.05118). The paper does not cover responses shorter than 1/α tokens, for which
    the formula without max is negative; here they get 0, as in NeMo-RL.

    Args:
        lengths: [B] integer, tokens.
        alpha: α > 0; the paper's is 0.05.
        dtype: of the result.

    Returns:
        [B] in [0, 1).

    Raises:
        ValueError, TypeError: a wrong shape or bound.
    """
    check_tensor("lengths", lengths, ndim=1)
    check_bound("alpha", alpha, above=0)
    return 1 - 1 / (alpha * lengths.to(dtype)).clamp(min=1)


def terminal_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Each response's reward at its last token, 0 before it.

    Args:
        rewards: [B] floating.
        mask: [B, T] bool.

    Returns:
        [B, T] of the rewards' dtype; the reward of a response without a token is lost.

    Raises:
        ValueError, TypeError: a wrong shape or dtype.
    """
    check_tensor("mask", mask, ndim=2, dtype=torch.bool)
    check_tensor("rewards", rewards, shape=mask.shape[:1], floating=True)
    last = mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))
    return torch.where(last, rewards.unsqueeze(-1), 0.0)


def _sum_backwards(terms: Tensor, factors: Tensor) -> Tensor:
    """xₜ = termsₜ + factorsₜ·xₜ₊₁, in ⌈log₂ T⌉ passes instead of one launch per token."""
    width, stride = terms.shape[1], 1
    while stride < width:
        rest = slice(None, width - stride)
        joined = terms[:, rest] + factors[:, rest] * terms[:, stride:]
        products = factors[:, rest] * factors[:, stride:]
        # After the last token nothing is added, whatever the factor.
        terms = torch.cat([joined, terms[:, width - stride :]], 1)
        factors = torch.cat([products, factors[:, width - stride :]], 1)
        stride *= 2
    return terms
