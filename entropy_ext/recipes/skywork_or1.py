"""Skywork-OR1: rejects groups without a signal and holds entropy with an adaptive bonus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes.base import Recipe
from entropy_ext.recipes.types import Group, Plan, Targets
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice
from entropy_ext.rl.controllers import AdaptiveEntropy, EntropyGate
from entropy_ext.rl.groups import Groups
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.statistics import masked_mean

__all__ = ["SkyworkOr1"]

EntropySignal = Literal["surprisal", "entropy"]


class SkyworkOr1(Recipe):
    """Skywork-OR1's MAGIC.

    Against GRPO: groups with equal rewards are dropped and not replaced; the loss is a mean over
    tokens, with one optimizer step per rollout; and an entropy bonus whose weight rises by `delta`
    per step while entropy is below `target` and falls while it is above.

    "Skywork Open Reasoner 1 Technical Report" (arXiv 2505.22312, eq. 3.1). Defaults are those of
    the released scripts, with 256 prompts × 16. Released code: gate="lagged_strict" and the mean
    of −old_logp as the measured entropy (here over the tokens of all ranks; there a mean of the
    ranks' means). Paper: gate="current_le". TRL: gate="lagged_le", signal="entropy", delta=0.005,
    maximum=1. With several mini-batches, the weight moves at each of them; in the released code it
    moves once per rollout.

    Args:
        target: entropy to hold, nats.
        delta: change of the weight per step.
        maximum: upper bound of the weight; the lower bound is 0.
        gate: when the bonus is on, see `rl.controllers.AdaptiveEntropy`.
        signal: "surprisal", the mean of −old_logp, or "entropy", the mean of old_entropy.
        entropy_coef: the initial weight.
        options: the remaining arguments of `Recipe`.
    """

    name: ClassVar[str] = "skywork_or1"
    paper: ClassVar[str] = "arXiv 2505.22312"
    aggregation: Aggregation = "token-mean"
    minibatches: int = 1

    def __init__(
        self,
        *,
        target: float = 0.2,
        delta: float = 1e-4,
        maximum: float = 0.005,
        gate: EntropyGate = "lagged_strict",
        signal: EntropySignal = "surprisal",
        entropy_coef: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_choice("signal", signal, get_args(EntropySignal))
        # Checked here, because the controller calls it by another name.
        check_bound("maximum", maximum, at_least=0, finite=True)
        check_bound("entropy_coef", entropy_coef, at_least=0, at_most=maximum)
        self.signal = signal
        if signal == "entropy":
            self.needs = self.needs | {"old_entropy"}
        self.controller = AdaptiveEntropy(
            target, delta=delta, initial=entropy_coef, maximum=maximum, gate=gate
        )

    def keep(self, rollout: Rollout) -> Tensor:
        """Responses of groups whose rewards differ."""
        return Groups(rollout.prompt).varies(rollout.rewards)

    @torch.no_grad()
    def prepare(
        self, stats: TokenStats | None, rollout: Rollout, targets: Targets, *, group: Group = None
    ) -> Plan:
        """The controller's weight as the coefficient of the entropy bonus."""
        plan = super().prepare(stats, rollout, targets, group=group)
        signal = -rollout.old_logp
        if self.signal == "entropy":
            signal = cast(Tensor, rollout.old_entropy)
        measured = masked_mean(signal, plan.mask & torch.isfinite(signal), group=group)
        weight = self.controller.step(measured)
        return replace(plan, coefficients={**plan.coefficients, "entropy": weight})
