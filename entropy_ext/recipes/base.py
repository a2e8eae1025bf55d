"""GRPO, with the hooks that other recipes override."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.stateful import Stateful
from entropy_ext.recipes.types import (
    Group,
    Plan,
    PromptStats,
    Sampling,
    Statistics,
    StepActions,
    Targets,
)
from entropy_ext.rl.advantages import Singleton, group_zscore
from entropy_ext.rl.aggregate import Aggregation, count
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.losses import KLEstimator, TokenLoss, kl_penalty, ppo_clip
from entropy_ext.rl.rollout import Rollout

__all__ = ["Recipe"]


class Recipe:
    """Group Relative Policy Optimization, and the base of all recipes.

    L = max(−A·ρ, −A·clip(ρ, 1 − clip_low, 1 + clip_high)) + kl_coef·KL − entropy_coef·H,
    A = (r − mean_g r)/(std_g r + eps), averaged over each response and then over responses.

    A training step calls the hooks in this order:

    1. `select_prompts` weights the prompts; responses are sampled according to `sampling`.
    2. `shape_rewards`, whose result replaces the rollout's rewards; `keep` selects responses, and
       dropped groups are replaced by new ones, in up to `sampling.refill` further batches.
    3. `targets` on the whole rollout, once.
    4. `epochs` times, for each of the `minibatches` parts of the rollout, one optimizer step:
       `prepare` once, then for each micro-batch `token_loss` (and `value_loss`) with the rows of
       the rollout, targets and plan, `plan.aggregate`, backward.
    5. `after_step`, whose requests the trainer carries out.

    A recipe extends `prepare` and `token_loss`, which start from super()'s result; it replaces any
    other hook, such as `policy_loss` for the loss of the policy. `compose` relies on that.

    `statistics` determines the `stats` that `prepare` is given: "minibatch", those of the policy
    being trained over the whole mini-batch, which costs another forward pass if there are several
    micro-batches; "rollout", those recorded together with old_logp; or "micro", None, because the
    recipe needs only the statistics that `token_loss` is given for each micro-batch.

    Details that DeepSeekMath (arXiv 2402.03300, eq. 3 and section 4.1.2) leaves open follow verl:
    unbiased standard deviation, eps 1e-6 added to it, log-ratio clamped to ±20. Differences from
    the paper: no KL penalty (paper: kl_coef=0.04), and 4 optimizer steps per rollout of 16
    responses per prompt (paper: 1 and 64). Difference from verl: a response alone in its group gets
    an advantage of 0 instead of its reward (singleton="reward").

    Args:
        clip_low: the ratio may fall to 1 − clip_low.
        clip_high: the ratio may rise to 1 + clip_high.
        dual_clip: bound c > 1 on the ratio where the advantage is negative, or None.
        entropy_coef: weight of the entropy bonus.
        kl_coef: weight of the penalty on the divergence from the reference.
        kl_estimator: see `rl.losses.kl_penalty`.
        kl_max: bound on a token's estimate, nats, or None.
        aggregation: see `rl.aggregate`; None: the recipe's default.
        eps: added to the group's standard deviation.
        singleton: advantage of a response alone in its group: "zero" or its "reward".
        minibatches: optimizer steps per epoch; None: the recipe's default.
        epochs: passes over a rollout; None: the recipe's default.
        sampling: how to sample; None: the recipe's default.
    """

    name: ClassVar[str] = "grpo"
    paper: ClassVar[str] = "arXiv 2402.03300"
    needs: frozenset[str] = frozenset()
    """optional Rollout fields that the recipe needs; options may add to them"""
    statistics: Statistics = "micro"
    extras: bool = False
    """the statistics that `prepare` is given must include the extras (collision, …)"""
    whole_sequences: bool = False
    """micro-batches must not split a sequence; an aggregation by sequence means implies it"""
    aggregation: Aggregation = "seq-mean-token-mean"
    minibatches: int = 4
    """optimizer steps per epoch"""
    epochs: int = 1
    """passes over a rollout"""
    sampling: Sampling = Sampling()
    corrects_sampler: ClassVar[bool] = False
    """the loss weights tokens by the ratio of the trainer's to the sampler's probability"""
    value_pretraining: int = 0
    """initial steps that train only the value head on its returns, with the policy fixed"""

    def __init__(
        self,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        dual_clip: float | None = None,
        entropy_coef: float = 0.0,
        kl_coef: float = 0.0,
        kl_estimator: KLEstimator = "k3",
        kl_max: float | None = None,
        aggregation: Aggregation | None = None,
        eps: float = 1e-6,
        singleton: Singleton = "zero",
        minibatches: int | None = None,
        epochs: int | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        check_bound("clip_low", clip_low, at_least=0, at_most=1)
        check_bound("clip_high", clip_high, at_least=0)
        if dual_clip is not None:
            check_bound("dual_clip", dual_clip, above=1)
        check_bound("entropy_coef", entropy_coef, finite=True)
        check_bound("kl_coef", kl_coef, at_least=0, finite=True)
        check_choice("kl_estimator", kl_estimator, get_args(KLEstimator))
        if kl_max is not None:
            check_bound("kl_max", kl_max, above=0)
        check_bound("eps", eps, above=0, finite=True)
        check_choice("singleton", singleton, get_args(Singleton))
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.dual_clip = dual_clip
        self.entropy_coef = entropy_coef
        self.kl_coef = kl_coef
        self.kl_estimator: KLEstimator = kl_estimator
        self.kl_max = kl_max
        if kl_coef > 0:
            self.needs = self.needs | {"ref_logp"}
        self.eps = eps
        self.singleton: Singleton = singleton
        if aggregation is not None:
            check_choice("aggregation", aggregation, get_args(Aggregation))
            self.aggregation = aggregation
        self.minibatches = self.minibatches if minibatches is None else minibatches
        self.epochs = self.epochs if epochs is None else epochs
        self.sampling = self.sampling if sampling is None else sampling
        check_bound("minibatches", self.minibatches, at_least=1, integer=True)
        check_bound("epochs", self.epochs, at_least=1, integer=True)
        if not isinstance(self.sampling, Sampling):
            raise TypeError(f"sampling: expected a Sampling, got {self.sampling!r}")
        self.whole_sequences = self.whole_sequences or self.aggregation == "seq-mean-token-mean"

    def select_prompts(self, prompt_stats: PromptStats, progress: float) -> Tensor:
        """Weights [P] ≥ 0 for drawing the next prompts. Default: all equal."""
        return torch.ones_like(prompt_stats.attempts, dtype=torch.float32)

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """The rewards [B] to learn from. Default: those of the checker."""
        return rollout.rewards

    def keep(self, rollout: Rollout) -> Tensor:
        """[B] bool: the responses to learn from; `targets` is given only these. Default: all.

        Groups are kept or dropped as a whole, unless the advantages do not depend on the group.
        """
        return torch.ones_like(rollout.prompt, dtype=torch.bool)

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """Advantages, and returns for a value head, computed from shaped rewards.

        Args:
            rollout: the whole rollout, or this rank's part of it, without splitting groups.
            group: ranks that hold the other parts; for statistics over the whole rollout.
        """
        self.check(rollout)
        return Targets(
            group_zscore(
                rollout.rewards,
                rollout.prompt,
                rollout.mask,
                eps=self.eps,
                singleton=self.singleton,
            )
        )

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The plan: everything that is fixed for one optimizer step on the mini-batch `rollout`.

        Args:
            stats: [B, T] each, detached; see `statistics`.
            rollout: the mini-batch.
            targets: its targets.
            group: ranks that hold the other parts of the mini-batch; the mean of their gradients is
                then the gradient of the whole mini-batch.

        Raises:
            ValueError: a field or statistic that the recipe needs is missing; it is named.
        """
        self.check(rollout)
        like = rollout.old_logp
        weights = {"entropy": self.entropy_coef, "kl": self.kl_coef}
        # torch.full, because torch.tensor of a host number would wait for the device.
        coefficients = {
            name: torch.full((), weight, dtype=like.dtype, device=like.device)
            for name, weight in weights.items()
            if weight != 0
        }
        return Plan(
            mask=rollout.mask,
            aggregation=self.aggregation,
            normalizer=count(rollout.mask, self.aggregation, group=group),
            max_length=rollout.max_length,
            coefficients=coefficients,
        )

    def token_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The loss of every token [B, T]; pure, differentiable in logp, entropy and lse of stats.

        Default: the policy loss with the plan's weights, the KL penalty and the entropy bonus.
        """
        loss, metrics = self.policy_loss(stats, rollout, targets, plan)
        if plan.weights is not None:
            loss = torch.where(plan.mask, loss * plan.weights, 0.0)
        if "kl" in plan.coefficients:
            assert rollout.ref_logp is not None
            kl, seen = kl_penalty(
                stats.logp,
                rollout.ref_logp,
                plan.mask,
                estimator=self.kl_estimator,
                old_logp=rollout.old_logp if self.kl_estimator == "unbiased" else None,
                max_value=self.kl_max,
            )
            loss = loss + plan.coefficients["kl"] * plan.tokens.get("kl", 1.0) * kl
            metrics = {**metrics, **seen}
        if "entropy" in plan.coefficients:
            known = plan.mask & torch.isfinite(stats.entropy.detach())
            loss = loss - plan.coefficients["entropy"] * torch.where(known, stats.entropy, 0.0)
        return TokenLoss(loss, metrics)

    def policy_loss(
        self, stats: TokenStats, rollout: Rollout, targets: Targets, plan: Plan
    ) -> TokenLoss:
        """The policy-gradient loss [B, T], before the plan's weights. Default: clipped."""
        return ppo_clip(
            stats.logp,
            rollout.old_logp,
            targets.advantages,
            plan.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )

    def value_loss(self, values: Tensor, rollout: Rollout, targets: Targets) -> TokenLoss:
        """The loss of a value head's predictions [B, T]; only for recipes that need "values"."""
        raise NotImplementedError(f"recipe {self.name} has no value function")

    def after_step(self, metrics: Mapping[str, float]) -> StepActions:
        """Given the metrics of a finished training step, returns what the trainer should do now."""
        return StepActions()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the constructor's arguments.

        That is the state of each attribute that has one, by its name.
        """
        return {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        parts = self._stateful()
        if set(state) != set(parts):
            expected = ", ".join(sorted(parts)) or "none"
            got = ", ".join(sorted(state)) or "none"
            raise ValueError(f"recipe {self.name}: expected the state of {expected}, got {got}")
        for name, part in parts.items():
            part.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Stateful]:
        return {name: part for name, part in vars(self).items() if isinstance(part, Stateful)}

    @classmethod
    def refuse(cls, options: Mapping[str, Any], *names: str) -> None:
        """Raise TypeError if an argument is given that the loss of this recipe does not use."""
        for name in names:
            if name in options:
                raise TypeError(f"recipe {cls.name} has no {name}")

    def check(self, rollout: Rollout) -> None:
        """Raise ValueError if the rollout lacks a field that this recipe needs."""
        for name in sorted(self.needs):
            if getattr(rollout, name) is None:
                raise ValueError(f"recipe {self.name} needs Rollout.{name}, which is None")
