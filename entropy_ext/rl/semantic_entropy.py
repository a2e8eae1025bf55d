"""Semantic entropy: how much the answers to a prompt disagree in meaning. No gradient."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_choice, check_tensor
from entropy_ext.rl.groups import Groups
from entropy_ext.rl.rollout import Rollout

__all__ = ["Clustering", "SemanticEstimator", "exact_answers", "semantic_entropy", "sequence_score"]

SemanticEstimator = Literal["shannon", "mc_mean"]

Clustering: TypeAlias = Callable[[Rollout], Tensor]
"""From a rollout to [B] int64 cluster numbers: two responses to the same prompt have the same
meaning if their numbers are equal. Numbers of different prompts are unrelated."""


def exact_answers(rollout: Rollout) -> Tensor:
    """Clusters of equal answers; a response without an answer is a cluster of its own.

    Args:
        rollout: with answers.

    Returns:
        [B] int64 on the rollout's device.

    Raises:
        ValueError: the rollout has no answers.
    """
    if rollout.answers is None:
        raise ValueError("rollout: expected answers, got None")
    known: dict[Hashable, int] = {}
    labels = [
        -1 - i if answer is None else known.setdefault(answer, len(known))
        for i, answer in enumerate(rollout.answers)
    ]
    device = rollout.mask.device
    # A copy from pinned memory does not wait for the device.
    pinned = device.type == "cuda"
    host = torch.tensor(labels, dtype=torch.int64, device="cpu", pin_memory=pinned)
    return host.to(device, non_blocking=True)


@torch.no_grad()
def sequence_score(logp: Tensor, mask: Tensor, *, length_normalize: bool = True) -> Tensor:
    """The log-probability of a response: the mean of its tokens' logp, or their sum.

    The sum puts nearly all probability on the shortest response.

    Args:
        logp: [B, T] floating, nats.
        mask: [B, T] bool.
        length_normalize: mean rather than sum.

    Returns:
        [B], nats; −inf for a response without a token, which is thereby left out.

    Raises:
        ValueError, TypeError: a wrong shape or dtype.
    """
    check_tensor("logp", logp, ndim=2, floating=True)
    check_tensor("mask", mask, shape=logp.shape, dtype=torch.bool)
    lengths = mask.sum(-1)
    total = torch.where(mask, logp, 0.0).sum(-1)
    score = total / lengths.clamp(min=1) if length_normalize else total
    return torch.where(lengths > 0, score, -torch.inf)


@torch.no_grad()
def semantic_entropy(
    score: Tensor, prompt: Tensor, cluster: Tensor, *, estimator: SemanticEstimator = "shannon"
) -> Tensor:
    """Entropy over the meanings of the responses to a prompt.

    With pₖ = Σ_{i in k} exp(scoreᵢ) / Σⱼ exp(scoreⱼ) over the group's clusters k = 1 … K:

    - shannon: −Σₖ pₖ ln pₖ, at most ln K;
    - mc_mean: −(1/K) Σₖ ln pₖ, at least as large; unbounded as a cluster becomes rare.

    No gradient. "Detecting hallucinations in large language models using semantic entropy"
    (Nature 630, 2024), and SEED-GRPO (arXiv 2505.12346), whose paper gives mc_mean while its
    released code reportedly uses shannon.

    Args:
        score: [B] floating, nats, see `sequence_score`; −inf leaves a response out.
        prompt: [B] int64, the group of each response.
        cluster: [B] int64, see `Clustering`.
        estimator: one of the two above.

    Returns:
        [B], nats, the same for all responses to a prompt; 0 where every score is −inf.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or option.
    """
    check_tensor("score", score, ndim=1, floating=True)
    check_tensor("prompt", prompt, shape=score.shape, dtype=torch.int64)
    check_tensor("cluster", cluster, shape=score.shape, dtype=torch.int64)
    check_choice("estimator", estimator, get_args(SemanticEstimator))
    groups = Groups(prompt)
    meanings = Groups(groups.index * max(len(cluster), 1) + Groups(cluster).index)
    # Leaves out responses without a token and responses with an impossible token.
    counted = torch.isfinite(score)
    score = torch.where(counted, score, -torch.inf)
    log_total = torch.where(counted, groups.logsumexp(score), 0.0)
    log_p = torch.where(counted, meanings.logsumexp(score) - log_total, 0.0)
    if estimator == "shannon":
        weight = torch.where(counted, (score - log_total).exp(), 0.0)
    else:
        members = meanings.sum(counted.to(score.dtype)).clamp(min=1)
        share = torch.where(counted, 1 / members, 0.0)
        weight = share / groups.sum(share).clamp(min=1)
    # The logarithm for a single cluster may round to either side of 0.
    return groups.sum(-weight * log_p).clamp(min=0)
