"""SEED-GRPO: smaller updates on prompts whose answers disagree."""

from __future__ import annotations

import math
from typing import Any, ClassVar, get_args

from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Targets
from entropy_ext.rl.advantages import group_mean
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice, check_flag
from entropy_ext.rl.curriculum import UncertaintyShape, uncertainty_weight
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.semantic_entropy import (
    Clustering,
    SemanticEstimator,
    exact_answers,
    semantic_entropy,
    sequence_score,
)

__all__ = ["SeedGrpo"]


class SeedGrpo(Recipe):
    """Semantic Entropy EnhanceD GRPO.

    Against GRPO: A = (r − mean_g r)·f(alpha·SE/ln G), where SE is the entropy over the meanings of
    the prompt's responses; no division by the spread of rewards or the response's length (Dr.
    GRPO).

    "SEED-GRPO: Semantic Entropy Enhanced GRPO for Uncertainty-Aware Policy Optimization"
    (arXiv 2505.12346). The paper estimates SE as a mean over clusters (estimator="mc_mean"); the
    released code reportedly uses Shannon's form and f(x) = 1/(1 + x), the defaults here. With alpha
    = 0.0417 no weight is below 0.96; with alpha = 1 none is below 0.5.

    Args:
        alpha: sensitivity; 0 leaves the advantages unchanged.
        estimator: "shannon" or "mc_mean".
        shape: f, see `rl.curriculum.uncertainty_weight`.
        gamma: exponent of the focal shape.
        length_normalize: use the mean logp of a response instead of the sum.
        cluster: function from a rollout to cluster numbers [B]; by default, equal answers.
        options: the remaining arguments of `Recipe`; sampling.group_size is G.
    """

    name: ClassVar[str] = "seed_grpo"
    paper: ClassVar[str] = "arXiv 2505.12346"
    needs: frozenset[str] = frozenset({"answers"})
    aggregation: Aggregation = "seq-mean-token-sum-norm"

    def __init__(
        self,
        *,
        alpha: float = 0.0417,
        estimator: SemanticEstimator = "shannon",
        shape: UncertaintyShape = "inverse",
        gamma: float = 2.0,
        length_normalize: bool = True,
        cluster: Clustering = exact_answers,
        **options: Any,
    ) -> None:
        self.refuse(options, "eps")
        super().__init__(**options)
        self.alpha = check_bound("alpha", alpha, at_least=0)
        self.estimator = check_choice("estimator", estimator, get_args(SemanticEstimator))
        self.shape = check_choice("shape", shape, get_args(UncertaintyShape))
        self.gamma = check_bound("gamma", gamma, at_least=0)
        self.length_normalize = check_flag("length_normalize", length_normalize)
        if not callable(cluster):
            raise TypeError(f"cluster: expected a function of a rollout, got {cluster!r}")
        self.cluster = cluster
        if cluster is not exact_answers:
            self.needs = self.needs - {"answers"}

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """Reward minus the group's mean, weighted by the prompt's semantic entropy."""
        self.check(rollout)
        advantages = group_mean(
            rollout.rewards, rollout.prompt, rollout.mask, singleton=self.singleton
        )
        score = sequence_score(
            rollout.old_logp, rollout.mask, length_normalize=self.length_normalize
        )
        entropy = semantic_entropy(
            score, rollout.prompt, self.cluster(rollout), estimator=self.estimator
        )
        weight = uncertainty_weight(
            entropy,
            max_entropy=math.log(self.sampling.group_size),
            alpha=self.alpha,
            shape=self.shape,
            gamma=self.gamma,
        )
        return Targets(advantages * weight.to(advantages.dtype).unsqueeze(-1))
