"""The loss of a value head."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.losses.token_loss import TokenLoss

__all__ = ["value_loss"]


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float | None = None,
) -> TokenLoss:
    """Squared error of a value head, with an optional bound on how far an update may move it.

    L = ½(V − R)², and with a clip c: L = ½ max((V − R)², (clip(V, V_old ± c) − R)²).

    Gradient flows to values; with a clip, it is 0 where the clipped error is larger and V is beyond
    the bound.

    "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
    (arXiv 1506.02438, eq. 28); the clipped form is that of OpenAI's PPO code and verl.

    Args:
        values: [B, T] floating, of the head being trained.
        old_values: [B, T], of the head when the rollout was made.
        returns: [B, T], the targets.
        mask: [B, T] bool.
        clip: c > 0, or None; verl's default is 0.5, NeMo-RL's recipe 0.2.

    Returns:
        TokenLoss; metrics value_tokens, value_error (Σ(V − R)²) and value_clip (tokens whose loss
        is at the bound).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_tensor("values", values, ndim=2, floating=True)
    check_tensor("mask", mask, shape=values.shape, dtype=torch.bool)
    check_tensor("old_values", old_values, shape=values.shape, floating=True)
    check_tensor("returns", returns, shape=values.shape, floating=True)
    returns = torch.where(mask, returns, 0.0).detach()
    values = torch.where(mask, values, 0.0)
    squares = (values - returns).square()
    held = torch.zeros_like(mask)
    loss = squares
    if clip is not None:
        check_bound("clip", clip, above=0)
        old_values = torch.where(mask, old_values, 0.0).detach()
        bounded = values.clamp(old_values - clip, old_values + clip)
        clipped = (bounded - returns).square()
        held = mask & (clipped > squares)
        loss = torch.where(held, clipped, squares)
    metrics = {
        "value_tokens": mask.sum(),
        "value_error": squares.detach().sum(),
        "value_clip": held.sum(),
    }
    return TokenLoss(loss / 2, metrics)
