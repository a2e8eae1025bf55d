"""The types exchanged between a recipe and the trainer that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.aggregate import Aggregation, aggregate
from entropy_ext.rl.checks import check_bound, check_flag

__all__ = ["Group", "Plan", "PromptStats", "Sampling", "Statistics", "StepActions", "Targets"]

Group: TypeAlias = "dist.ProcessGroup | None"
"""the ranks that share a mini-batch; None: this process alone"""

Statistics = Literal["micro", "minibatch", "rollout"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample the responses of one training step."""

    group_size: int = 16
    """responses per prompt"""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    teacher_traces: int = 0
    """how many responses of the group come from a teacher"""
    offline: bool = False
    """learn from stored responses; nothing is sampled"""
    refill: int = 0
    """maximum number of further batches per step to replace the groups that `keep` drops"""

    def __post_init__(self) -> None:
        check_bound("group_size", self.group_size, at_least=1, integer=True)
        check_bound("temperature", self.temperature, above=0, finite=True)
        check_bound("top_p", self.top_p, above=0, at_most=1)
        if self.top_k is not None:
            check_bound("top_k", self.top_k, at_least=1, integer=True)
        check_bound("teacher_traces", self.teacher_traces, at_least=0, integer=True)
        if self.teacher_traces > self.group_size:
            raise ValueError(
                f"teacher_traces: expected at most {self.group_size}, the group_size, "
                f"got {self.teacher_traces}"
            )
        check_flag("offline", self.offline)
        check_bound("refill", self.refill, at_least=0, integer=True)


class PromptStats(NamedTuple):
    """What is known about each of the P prompts of the training set, for `select_prompts`."""

    attempts: Tensor
    """[P] int64: responses sampled so far"""
    successes: Tensor
    """[P] int64: number of correct responses among them"""
    semantic_entropy: Tensor | None = None
    """[P], under the initial policy, nats; NaN where never measured"""
    domain: Tensor | None = None
    """[P] int64"""


class Targets(NamedTuple):
    """Advantages and returns, the inputs of the losses; no gradient."""

    advantages: Tensor
    """[B, T], 0 off the mask"""
    returns: Tensor | None = None
    """[B, T], targets of the value head"""

    def rows(self, index: Tensor | slice) -> Targets:
        """The sequences at `index`."""
        returns = None if self.returns is None else self.returns[index]
        return Targets(self.advantages[index], returns)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is fixed for one optimizer step; detached. Micro-batches use their `rows`."""

    mask: Tensor
    """[B, T] bool: the tokens that the loss is averaged over"""
    aggregation: Aggregation
    normalizer: Tensor
    """0-d: number of tokens or sequences in the whole mini-batch; with several ranks, their mean"""
    max_length: int
    """the constant of seq-mean-token-sum-norm, tokens"""
    weights: Tensor | None = None
    """[B, T]: factor on each token's policy loss; the normaliser is unchanged"""
    coefficients: Mapping[str, Tensor] = field(default_factory=dict)
    """name → 0-d tensor, such as "entropy" """
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    """name → [B, T]: further selections or weights for a recipe's token_loss"""

    def rows(self, index: Tensor | slice) -> Plan:
        """The sequences at `index`, with the same normaliser and coefficients."""
        return replace(
            self,
            mask=self.mask[index],
            weights=None if self.weights is None else self.weights[index],
            tokens={name: value[index] for name, value in self.tokens.items()},
        )

    def weighted(self, weights: Tensor) -> Plan:
        """The same plan, with each token's policy loss also multiplied by `weights` [B, T]."""
        return replace(self, weights=weights if self.weights is None else self.weights * weights)

    def aggregate(self, loss: Tensor) -> Tensor:
        """The contribution of this micro-batch to the loss of the mini-batch, 0-d; these add up."""
        return aggregate(
            loss,
            self.mask,
            self.aggregation,
            normalizer=self.normalizer,
            max_length=self.max_length,
        )


class StepActions(NamedTuple):
    """What the trainer is asked to do after a training step."""

    reset_reference: bool = False
    """reset the reference to the current policy"""
    reset_optimizer: bool = False
    """reset the optimizer's state"""
