"""Rewarding the unlikely: less likely right answers count more. No gradient."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from entropy_ext.rl.advantages.group import Singleton, check_groups, group_zscore
from entropy_ext.rl.checks import check_bound, check_choice, check_tensor
from entropy_ext.rl.precision import at_least_float32

__all__ = ["UnlikelinessForm", "unlikeliness", "unlikeliness_reward"]

UnlikelinessForm = Literal["code", "paper"]


@torch.no_grad()
def unlikeliness_reward(
    rewards: Tensor,
    old_logp: Tensor,
    prompt: Tensor,
    mask: Tensor,
    *,
    beta: float = 0.25,
    form: UnlikelinessForm = "code",
) -> Tensor:
    """Discounts the reward of a response by its likelihood rank in its group.

    With uᵢ = (1/lᵢ)·Σₜ old_logpᵢₜ and cᵢ its rank in the group, 0 the least likely:

    - "code":  sᵢ = rᵢ·(1 − β·cᵢ/G)
    - "paper": sᵢ = rᵢ·(1 − β·(cᵢ + 1)/G)

    No gradient. Ranks are taken over all responses of the group, with ties in order of position.
    Missing or non-finite values of old_logp count as 0 in u.

    "Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening" (arXiv 2506.02355). The
    first form is that of the released code, the second that of the paper according to an
    independent port.

    Args:
        rewards: [B] floating; should be 0 for wrong answers, and then stays 0.
        old_logp: [B, T], nats, of the trainer's policy before the first update.
        prompt: [B] int64, the group of each response.
        mask: [B, T] bool, response tokens.
        beta: 0 leaves the rewards unchanged; at most 1.
        form: one of the two above.

    Returns:
        [B] of the rewards' dtype, at least float32.

    Raises:
        ValueError, TypeError: a wrong shape, dtype, bound or option.
    """
    groups = check_groups(rewards, prompt, mask)
    check_tensor("old_logp", old_logp, shape=mask.shape, floating=True)
    check_bound("beta", beta, at_least=0, at_most=1)
    check_choice("form", form, get_args(UnlikelinessForm))
    rewards, old_logp = at_least_float32(rewards), at_least_float32(old_logp)
    known = mask & torch.isfinite(old_logp)
    likelihood = torch.where(known, old_logp, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    rank = groups.rank(likelihood).to(rewards.dtype) + int(form == "paper")
    return rewards * (1 - beta * rank / groups.size)


def unlikeliness(
    rewards: Tensor,
    old_logp: Tensor,
    prompt: Tensor,
    mask: Tensor,
    *,
    beta: float = 0.25,
    form: UnlikelinessForm = "code",
    eps: float = 1e-6,
    singleton: Singleton = "zero",
) -> Tensor:
    """GRPO's advantages, computed from the rewards of `unlikeliness_reward`.

    Aᵢₜ = (sᵢ − mean_g(s)) / (std_g(s) + eps)

    No gradient. A group that is all right has advantages too, negative for its likely answers.

    Args:
        rewards, old_logp, prompt, mask, beta, form: see `unlikeliness_reward`.
        eps: added to the (unbiased) standard deviation.
        singleton: the advantage of a response alone in its group: "zero", or its "reward" s.

    Returns:
        [B, T] of the rewards' dtype, at least float32; 0 where mask is False.

    Raises:
        ValueError, TypeError: a wrong shape, dtype, bound or option.
    """
    shaped = unlikeliness_reward(rewards, old_logp, prompt, mask, beta=beta, form=form)
    return group_zscore(shaped, prompt, mask, eps=eps, singleton=singleton)
