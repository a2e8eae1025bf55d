"""Exact measures along a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sim.lab.exact import Policy, divergence, mean_token_entropy, pass_at_k
from sim.lab.task import Task

__all__ = ["KS", "History", "Probe", "lengths", "measures", "trained"]

KS = (1, 4, 16, 64, 256)

Probe = Callable[[Task, Policy], Mapping[str, Tensor]]
"""Further exact measures of a policy on all prompts, each [N]."""


@dataclass(frozen=True)
class History:
    """What was measured along a training run of N seeds."""

    steps: list[int]
    """K numbers of training steps done, 0 the first"""
    values: dict[str, Tensor]
    """name → [K, N]"""
    parameters: Tensor
    """at the end"""

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def final(self, name: str) -> Tensor:
        """[N]: at the end."""
        return self.values[name][-1]


def trained(task: Task, policy: Policy) -> Policy:
    """The policy on the prompts that are trained on."""
    rows = task.trained
    return Policy(
        policy.tree, policy.logp[:, rows], policy.response_logp[:, rows], policy.visits[:, rows]
    )


def measures(
    task: Task, policy: Policy, start: Policy, ks: Sequence[int] = KS
) -> dict[str, Tensor]:
    """Exact measures of a policy, [N] each, means over the prompts trained on.

    reward: expected reward. pass@k: chance that one of k responses is right. entropy: nats per
    token. sequence_entropy: nats per response. kl: of responses from the start, nats. length:
    expected tokens. held_out: pass@1 on the other prompts, where there are any.
    """
    seen, rows = trained(task, policy), task.trained
    success = policy.mean(task.correct.double())
    found = {
        "reward": seen.mean(task.rewards[:, rows]).mean(-1),
        "entropy": mean_token_entropy(seen),
        "sequence_entropy": seen.sequence_entropy.mean(-1),
        "kl": divergence(seen, trained(task, start)).mean(-1),
        "length": seen.visits.sum(-1).mean(-1),
    }
    for place, passed in enumerate(pass_at_k(success[:, rows], ks).mean(1).unbind(-1)):
        found[f"pass@{ks[place]}"] = passed
    if task.training is not None:
        found["held_out"] = success[:, task.training :].mean(-1)
    return found


def lengths(task: Task, policy: Policy) -> dict[str, Tensor]:
    """length_right, length_wrong: expected tokens of right and of wrong responses, [N] each.

    A prompt counts the same however often it is answered wrongly, so that the figures do not move
    with the share of the hard prompts among the wrong responses.
    """
    seen, right = trained(task, policy), task.correct[:, task.trained].double()
    tokens = task.tree.mask.sum(-1).double()
    return {
        f"length_{name}": (seen.mean(part * tokens) / seen.mean(part)).mean(-1)
        for name, part in (("right", right), ("wrong", 1 - right))
    }
