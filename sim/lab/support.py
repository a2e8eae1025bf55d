"""A sampler that leaves tokens out: ratios and gradients with and without replay, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from entropy_ext.recipes import DeepSeekV32
from sim.lab.enumeration import likelihood_gradient, relative_error
from sim.lab.exact import Policy
from sim.lab.tables import Cell
from sim.lab.task import Task

__all__ = [
    "FULL",
    "OUTSIDE",
    "REPLAY",
    "SAMPLES",
    "WithoutReplay",
    "gradient_bias",
    "gradients",
    "narrowed",
    "nucleus",
    "ratio_bias",
    "ratios",
    "sampled",
]

REPLAY, FULL = "replay", "no replay"
SAMPLES, OUTSIDE = "reward of samples", "mass outside"


class WithoutReplay(DeepSeekV32):
    """Ratios and gradients of the whole policy, though the sampler was narrower."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.needs = self.needs - {"support"}


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """[..., V] bool: the fewest tokens, likeliest first, whose mass reaches top_p."""
    probs, order = logits.softmax(-1).sort(-1, descending=True)
    first = probs.cumsum(-1) - probs < top_p
    return torch.zeros_like(first).scatter(-1, order, first)


def narrowed(logits: Tensor, kept: Tensor) -> Tensor:
    """The logits of the sampler."""
    return logits.masked_fill(~kept, -torch.inf)


def sampled(task: Task, policy: Policy, *, top_p: float) -> Mapping[str, Tensor]:
    """Expected reward of what the sampler writes, and the mass it leaves out, mean over visits."""
    kept = nucleus(policy.logp, top_p)
    sampler = Policy.of(task.tree, narrowed(policy.logp, kept))
    outside = torch.where(kept, 0.0, policy.probs).sum(-1)
    visits = sampler.visits
    return {
        SAMPLES: sampler.mean(task.rewards).mean(-1),
        OUTSIDE: (visits * outside).sum((-2, -1)) / visits.sum((-2, -1)),
    }


def ratios(task: Task, old: Tensor, new: Tensor, *, top_p: float) -> dict[str, Tensor]:
    """|E[ρ] − 1| of a token under the sampler, mean over its visits, [N]; 0 if ρ is a ratio."""
    kept = nucleus(old, top_p)
    sampler = Policy.of(task.tree, narrowed(old, kept))
    found = {}
    for name, pair in ((REPLAY, (narrowed(old, kept), narrowed(new, kept))), (FULL, (old, new))):
        before, after = (table.log_softmax(-1) for table in pair)
        ratio = torch.where(kept, (after - before).exp(), 0.0)
        gap = ((sampler.probs * ratio).sum(-1) - 1).abs()
        found[name] = (sampler.visits * gap).sum((-2, -1)) / sampler.visits.sum((-2, -1))
    return found


def gradients(task: Task, logits: Tensor, *, top_p: float) -> dict[str, Tensor]:
    """Expected on-policy gradients on the logits, and that of the sampler's expected reward."""
    kept = nucleus(logits, top_p)
    leaf = logits.clone().requires_grad_()
    objective = Policy.of(task.tree, narrowed(leaf, kept)).mean(task.rewards).sum()
    (truth,) = torch.autograd.grad(objective, leaf)
    sampler = Policy.of(task.tree, narrowed(logits, kept))
    advantages = task.rewards - sampler.mean(task.rewards)[..., None]
    weights = (sampler.responses * advantages)[..., None].expand(-1, -1, -1, task.tree.max_length)
    return {
        "truth": truth,
        REPLAY: likelihood_gradient(task.tree, narrowed(logits, kept), weights),
        FULL: likelihood_gradient(task.tree, logits, weights),
    }


def ratio_bias(
    task: Task, noise: Tensor, sizes: Sequence[float], *, top_p: float
) -> dict[tuple[Cell, ...], Tensor]:
    """`ratios` once the start's logits have moved by size·noise, (training, size) → [N].

    Args:
        task: of N seeds.
        noise: [N, P, S, V].
        sizes: of the noise.
        top_p: of the sampler.
    """
    start = task.logits(task.start)
    gaps: dict[tuple[Cell, ...], Tensor] = {}
    for size in sizes:
        found = ratios(task, start, start + size * noise, top_p=top_p)
        gaps |= {(name, size): gap for name, gap in found.items()}
    return gaps


def gradient_bias(task: Task, *, top_p: float) -> dict[tuple[Cell, ...], Tensor]:
    """Relative error of each training's gradient at the start, (training,) → [N]."""
    found = gradients(task, task.logits(task.start), top_p=top_p)
    return {(name,): relative_error(found[name], found["truth"]) for name in (REPLAY, FULL)}
