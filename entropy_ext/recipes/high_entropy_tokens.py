"""Beyond the 80/20 rule: DAPO on the tokens with the highest entropy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch

from entropy_ext import TokenStats, token_selection
from entropy_ext.recipes.dapo import Dapo
from entropy_ext.recipes.statistics import statistics_of
from entropy_ext.recipes.types import Group, Plan, Statistics, Targets
from entropy_ext.rl.aggregate import count
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.statistics import token_ids

__all__ = ["HighEntropyTokens"]

HighEntropyVariant = Literal["authors", "trl"]


class HighEntropyTokens(Dapo):
    """DAPO's loss on the fraction of the tokens with the highest entropy.

    The entropy is that of the policy being trained, at each optimizer step, over the full
    vocabulary.

    "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for
    LLM Reasoning" (arXiv 2506.01939), with the settings of DAPO's script, including the dual clip
    of 10. The authors' code ranks the tokens of one micro-batch on one rank; here the mini-batch on
    all ranks is ranked.

    - "authors": exactly ⌈fraction·N⌉ tokens; the mean is over those tokens, so that each has
      1/fraction times the weight it has without selection.
    - "trl": all tokens at or above the (1 − fraction) quantile; the mean is over all tokens.

    Args:
        fraction: fraction of the tokens to learn from, 0 to 1.
        variant: "authors" or "trl".
        dual_clip: bound c > 1 on the ratio where the advantage is negative, or None.
        options: the remaining arguments of `Dapo`; an entropy bonus covers the averaged tokens.
    """

    name: ClassVar[str] = "high_entropy_tokens"
    paper: ClassVar[str] = "arXiv 2506.01939"
    statistics: Statistics = "minibatch"

    def __init__(
        self,
        *,
        fraction: float = 0.2,
        variant: HighEntropyVariant = "authors",
        dual_clip: float | None = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(dual_clip=dual_clip, **options)
        check_bound("fraction", fraction, at_least=0, at_most=1)
        check_choice("variant", variant, get_args(HighEntropyVariant))
        self.fraction = fraction
        self.variant = variant

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The tokens with the highest entropy, as the mask or as weights."""
        plan = super().prepare(stats, rollout, targets, group=group)
        stats = statistics_of(self, stats, rollout)
        selected = token_selection.top_entropy(
            stats.entropy,
            plan.mask & torch.isfinite(stats.entropy),
            fraction=self.fraction,
            rule="exact" if self.variant == "authors" else "quantile",
            token_ids=token_ids(plan.mask, group=group),
            group=group,
        )
        if self.variant == "trl":
            return plan.weighted(selected.to(stats.entropy.dtype))
        normalizer = count(selected, self.aggregation, group=group)
        return replace(plan, mask=selected, normalizer=normalizer)
