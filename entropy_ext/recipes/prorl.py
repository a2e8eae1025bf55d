"""ProRL: long training runs with a KL penalty to a reference that is reset from time to time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from entropy_ext.recipes.cosine_length import CosineLength
from entropy_ext.recipes.dynamic_sampling import DynamicSampling
from entropy_ext.recipes.types import Group, Sampling, StepActions, Targets
from entropy_ext.rl.advantages import batch_whiten, group_mean
from entropy_ext.rl.aggregate import Aggregation
from entropy_ext.rl.checks import check_bound, check_choice, check_flag
from entropy_ext.rl.controllers import ReferenceReset
from entropy_ext.rl.rollout import Rollout

__all__ = ["ProRL"]

ProRLVersion = Literal["v1", "v2"]

_DEFAULTS: dict[str, dict[str, Any]] = {
    "v1": {"clip_high": 0.4, "kl_coef": 1e-4, "kl_estimator": "k3"},
    "v2": {"clip_high": 0.27, "kl_coef": 1e-4, "kl_estimator": "k2", "kl_max": 10.0},
}
_RESETS: dict[str, dict[str, Any]] = {"v1": {"patience": 3}, "v2": {"every": 500}}


class ProRL(CosineLength, DynamicSampling):
    """Prolonged Reinforcement Learning.

    Against GRPO: clip-higher, a mean over tokens, and dropped groups that are all right or all
    wrong, as in DAPO; a KL penalty; and resets of the reference to the current policy: in v1 when
    the score on held-out problems stalls, with a new optimizer, in v2 every 500 steps, keeping the
    optimizer. v2 also uses A = r − mean_g r, whitened over all tokens (REINFORCE++-baseline), and
    the k2 estimate bounded to 10 nats.

    v1: "ProRL: Prolonged Reinforcement Learning Expands Reasoning Boundaries in Large Language
    Models" (arXiv 2505.24864), 256 prompts × 16 at temperature 1.2. v2: "Scaling LLM Reinforcement
    Learning with Prolonged Training Using ProRL v2" (NVIDIA, August 2025: a reset every 200 to
    500 steps) and its NeMo-RL and OpenRLHF recipes, whose filter on the ratio of trainer and
    sampler is `compose("prorl", "masked_is", version="v2")`. Not verified: v1's kl_coef and
    estimator, and what counts as a stall of the score or a spike of the divergence.

    Args:
        version: "v1" or "v2"; sets clip_high, kl_coef, kl_estimator, kl_max and the resets.
        reset_every: steps, or None. If none of the three is given, those of the version apply.
        reset_patience: validations without improvement, or None.
        reset_kl: divergence from the reference, nats per token, or None.
        reset_optimizer: reset the optimizer too; None: as in the version.
        options: the remaining arguments of `CosineLength`, v2's length reward, which is off by
            default.
    """

    name: ClassVar[str] = "prorl"
    paper: ClassVar[str] = "arXiv 2505.24864"
    aggregation: Aggregation = "token-mean"
    sampling: Sampling = Sampling(group_size=16, temperature=1.2, refill=9)

    def __init__(
        self,
        *,
        version: ProRLVersion = "v1",
        reset_every: int | None = None,
        reset_patience: int | None = None,
        reset_kl: float | None = None,
        reset_optimizer: bool | None = None,
        **options: Any,
    ) -> None:
        check_choice("version", version, get_args(ProRLVersion))
        super().__init__(**{**_DEFAULTS[version], **options})
        self.version = version
        whole: dict[str, Any] = {"at_least": 1, "integer": True, "optional": True}
        resets = {
            "every": check_bound("reset_every", reset_every, **whole),
            "patience": check_bound("reset_patience", reset_patience, **whole),
            "kl_limit": check_bound("reset_kl", reset_kl, above=0, optional=True),
        }
        given = {name: value for name, value in resets.items() if value is not None}
        self.resets = ReferenceReset(**(given or _RESETS[version]))
        anew = version == "v1" if reset_optimizer is None else reset_optimizer
        self.reset_optimizer = check_flag("reset_optimizer", anew)

    def targets(self, rollout: Rollout, *, group: Group = None) -> Targets:
        """GRPO's in v1; in v2, reward minus the group's mean, whitened over the batch."""
        if self.version == "v1":
            return super().targets(rollout, group=group)
        self.check(rollout)
        rewards, prompt, mask = rollout.rewards, rollout.prompt, rollout.mask
        centred = group_mean(rewards, prompt, mask, singleton=self.singleton)
        return Targets(batch_whiten(centred, mask, group=group))

    def after_step(self, metrics: Mapping[str, float]) -> StepActions:
        """Requests a reset when it is due; reads "kl_reference" and, if present, "held_out"."""
        due = self.resets.step(kl=metrics.get("kl_reference"), validation=metrics.get("held_out"))
        return StepActions(reset_reference=due, reset_optimizer=due and self.reset_optimizer)
