"""LUFFY: one loss for the policy's own responses and a teacher's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor
from entropy_ext.rl.losses.ppo import ppo_clip
from entropy_ext.rl.losses.token_loss import TokenLoss, check_loss_inputs

__all__ = ["mixed_policy"]


def mixed_policy(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    teacher: Tensor,
    teacher_logp: Tensor | None = None,
    gamma: float | None = 0.1,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> TokenLoss:
    """Clipped loss on the policy's own tokens, shaped importance weight on the teacher's.

    With p = exp(logp), on the teacher's tokens, whose own probability is taken as 1:
    L = −A·f(p), f(p) = p/(p + γ), so that ∂L/∂logp = −A·γp/(p + γ)²: at most |A|/4, at p = γ,
    where −A·p would leave the teacher's rare tokens without gradient.
    If teacher_logp is given, L = −A·p/(exp(teacher_logp) + 1e-6), and f is left out. The other
    tokens have the loss of `ppo_clip`; clip_low=1 with clip_high=math.inf never clips.

    Gradient flows to logp, never clipped on the teacher's tokens; 0 where logp is not finite.

    "Learning to Reason under Off-Policy Guidance" (arXiv 2504.14945).

    Args:
        logp: [B, T] floating, nats, of the policy being trained.
        old_logp: [B, T], nats; not read on the teacher's tokens.
        advantages: [B, T], of the whole group, including the teacher's response.
        mask: [B, T] bool.
        teacher: [B, T] bool, the tokens that the teacher wrote.
        teacher_logp: [B, T], nats, of the teacher, or None; read on its tokens only.
        gamma: γ > 0, or None for f(p) = p.
        clip_low: the ratio of own tokens may fall to 1 − clip_low.
        clip_high: and may rise to 1 + clip_high.

    Returns:
        TokenLoss; the metrics of `ppo_clip`, where clip_low, clip_high, dual_clip and kl_old are
        those of own tokens, and teacher_tokens, teacher_p (Σ p over the teacher's tokens).

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_loss_inputs(logp, old_logp, advantages, mask)
    check_tensor("teacher", teacher, shape=logp.shape, dtype=torch.bool)
    if gamma is not None:
        check_bound("gamma", gamma, above=0)
    own, metrics = ppo_clip(
        logp, old_logp, advantages, mask & ~teacher, clip_low=clip_low, clip_high=clip_high
    )
    written = mask & teacher
    known = written & torch.isfinite(logp.detach())
    if teacher_logp is not None:
        check_tensor("teacher_logp", teacher_logp, shape=logp.shape, floating=True)
        known = known & torch.isfinite(teacher_logp)
    # At most 0, so that entries that are not log-probabilities of tokens cannot overflow.
    taught = torch.where(known, logp, 0.0)
    if teacher_logp is not None:
        weight = taught.exp() / (torch.where(known, teacher_logp, 0.0).detach().exp() + 1e-6)
    elif gamma is not None:
        weight = torch.sigmoid(taught - math.log(gamma))
    else:
        weight = taught.exp()
    loss = torch.where(known, -advantages.detach() * weight, own)
    metrics = {
        **metrics,
        "tokens": mask.sum(),
        "nonfinite_logp": metrics["nonfinite_logp"] + (written & ~known).sum(),
        "teacher_tokens": written.sum(),
        "teacher_p": torch.where(known, taught.detach().exp(), 0.0).sum(),
    }
    return TokenLoss(loss, metrics)
