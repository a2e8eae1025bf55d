"""Responses drawn for all seeds at once, with every Rollout field that the task knows exactly."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from entropy_ext import Support, TokenStats, token_stats
from entropy_ext.recipes import Sampling
from entropy_ext.rl import Rollout
from sim.lab.draws import normals, uniforms
from sim.lab.exact import Policy, state_values
from sim.lab.task import Task

__all__ = ["SUPPLIED", "Draw", "Samples", "sample", "support", "table_rows", "table_stats"]

PROMPTS, RESPONSES, TEACHER, MISMATCH = 10, 11, 12, 13
"""streams of random numbers"""
SUPPLIED = frozenset(field.name for field in fields(Rollout) if field.default is None)
"""The optional Rollout fields, all of them filled as far as the task knows."""
COSTLY = frozenset({"ref_logp", "values", "step_correct", "teacher_logp"})
"""those filled only if wanted"""


class Draw(NamedTuple):
    """What a call of `sample` draws for."""

    step: int
    progress: float
    refill: int
    """how many batches were drawn in this step before"""
    stored: int | None
    """which stored batch to go through again, or None"""

    @property
    def place(self) -> tuple[int, int]:
        """Where its random numbers are."""
        return (self.step if self.stored is None else self.stored, self.refill)


@dataclass(frozen=True)
class Samples:
    """B responses for each of N seeds; right-padded to T tokens. Leading dimensions [N, B]."""

    response: Tensor
    """[N, B] int64: which of the tree's responses"""
    prompt: Tensor
    """[N, B] int64: which of the task's prompts"""
    live: Tensor
    """[N, B] bool: False for fillers, where a seed had too few prompts to draw from"""
    stats: TokenStats
    """[N, B, T] each, of the policy that wrote them"""
    kept: Tensor | None
    """[N, B, T, V] bool: tokens that top-p and top-k left the sampler, if they left any out"""
    common: dict[str, Any]
    """Rollout fields that are the same for all seeds"""
    fields: dict[str, Tensor]
    """Rollout fields [N, B, …]; answers as numbers"""


def sample(
    task: Task,
    policy: Tensor,
    reference: Tensor,
    weights: Tensor,
    draw: Draw,
    *,
    sampling: Sampling,
    groups: int,
    mismatch: float | Tensor = 0.0,
    replay_support: bool = False,
    values: Tensor | None = None,
    wanted: frozenset[str] = COSTLY,
    extras: bool = False,
) -> Samples:
    """One group of responses to each of `groups` prompts, drawn without replacement.

    Every random number is a function of the seed, the step and the place, so that all recipes see
    the same luck, and no seed notices the others.

    Args:
        task: of N seeds.
        policy: [N, P, S, V] logits of the policy that writes: that in training, an older one, or
            that of stored responses.
        reference: the same of the reference policy.
        weights: [N, P] ≥ 0, of the prompts trained on.
        draw: which batch.
        sampling: as the recipe says.
        groups: prompts drawn for each seed; fewer where fewer have a weight.
        mismatch: standard deviation of noise on the sampler's logits, as of an inference engine
            that computes otherwise, drawn anew in each step; or what is added to them in every
            step, [N, P, S, V]. Only rollout_logp knows of it.
        replay_support: give recipes what top-p and top-k kept, and renormalise old_logp, ref_logp
            and rollout_logp over it.
        values: [N, P, S] of a critic; None for the exact values of the policy that writes.
        wanted: Rollout fields to fill besides those that cost nothing.
        extras: see token_stats; of the statistics of the policy that writes.
    """
    tree, temperature = task.tree, sampling.temperature
    place = draw.place
    chosen, live = _prompts(task, weights, groups, place)
    sampler = policy
    if isinstance(mismatch, Tensor):
        sampler = policy + mismatch
    elif mismatch:
        noise = normals(task.seeds, MISMATCH, *place, shape=tuple(policy.shape[1:]))
        sampler = policy + mismatch * noise
    left = _left(sampler / temperature, sampling)
    narrowed = sampler if left is None else sampler.masked_fill(~left, -torch.inf)
    writer = Policy.of(tree, narrowed / temperature)
    response = _responses(task, writer, chosen, sampling, place)

    prompt = chosen.repeat_interleave(sampling.group_size, -1)
    kept = None if left is None else table_rows(task, left, prompt, response)
    shown = kept if replay_support else None
    mask = tree.mask[response]
    whole = live.repeat_interleave(sampling.group_size, -1)
    read = mask & whole[..., None]

    def gathered(logits: Tensor, extras: bool = False) -> TokenStats:
        return table_stats(
            task, logits, prompt, response, read, temperature=temperature, kept=shown, extras=extras
        )

    stats = gathered(policy, extras)
    seed = torch.arange(len(prompt))[:, None]
    rows = {
        "tokens": tree.tokens[response],
        "mask": mask,
        "rewards": task.rewards[seed, prompt, response],
        # A prompt drawn again by a later batch of this step is a group of its own.
        "prompt": prompt + draw.refill * task.prompts,
        "old_logp": _logp(stats),
        "old_entropy": stats.entropy,
        "rollout_logp": _logp(stats if sampler is policy else gathered(sampler)),
        "correct": task.correct[seed, prompt, response],
        "answers": task.answers[seed, prompt, response],
        "truncated": tree.truncated[response],
    }
    if "ref_logp" in wanted:
        rows["ref_logp"] = _logp(gathered(reference))
    if "values" in wanted:
        if values is None:
            exact = writer if narrowed is policy else Policy.of(tree, policy / temperature)
            values = state_values(exact, task.rewards)
        rows["values"] = table_rows(task, values[..., None], prompt, response)[..., 0]
    if "step_correct" in wanted:
        rows["step_correct"] = _step_correct(task, prompt, response)
    if task.domain is not None:
        rows["domain"] = task.domain[prompt]
    if task.teacher is not None:
        taught = torch.arange(sampling.group_size) >= sampling.group_size - sampling.teacher_traces
        rows["teacher"] = taught.repeat(chosen.shape[1])[:, None].expand_as(mask)
        if "teacher_logp" in wanted:
            rows["teacher_logp"] = _teacher_logp(task, prompt, response)
    common = {"max_length": tree.max_length, "step": draw.step, "progress": draw.progress}
    return Samples(response, prompt, whole, stats, shown, common, rows)


def table_stats(
    task: Task,
    logits: Tensor,
    prompt: Tensor,
    response: Tensor,
    mask: Tensor,
    *,
    temperature: float,
    kept: Tensor | None = None,
    extras: bool = False,
) -> TokenStats:
    """token_stats of responses under a table of logits; gradient flows to the table.

    Args:
        task: of N seeds.
        logits: [N, P, S, V].
        prompt, response: [N, B] int64.
        mask: [N, B, T] bool.
        temperature: τ.
        kept: [N, B, T, V] bool, what the sampler kept, or None.
        extras: see token_stats.
    """
    return token_stats(
        table_rows(task, logits, prompt, response),
        task.tree.tokens[response],
        temperature=temperature,
        mask=mask,
        support=None if kept is None else support(kept),
        extras=extras,
    )


def support(kept: Tensor) -> Support:
    """Kept tokens [..., V] bool as compressed rows."""
    flat = kept.flatten(0, -2)
    offsets = torch.nn.functional.pad(flat.sum(-1).cumsum(0), (1, 0))
    return Support(offsets, flat.nonzero()[:, 1].int())


def _logp(stats: TokenStats) -> Tensor:
    return stats.logp if stats.support_logp is None else stats.support_logp


def table_rows(task: Task, table: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
    """Rows of a table [N, P, S, X] for each token of the responses [N, B]: [N, B, T, X]."""
    size = task.tree.size
    state = prompt[..., None] * size + task.tree.states[response]
    flat = table.flatten(1, 2)
    offset = torch.arange(len(flat))[:, None, None] * flat.shape[1]
    return flat.flatten(0, 1)[state + offset]


def _prompts(
    task: Task, weights: Tensor, groups: int, place: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """[N, groups] prompts by weight without replacement, and whether each is more than a filler.

    "Weighted random sampling with a reservoir" (Efraimidis and Spirakis 2006).
    """
    u = uniforms(task.seeds, PROMPTS, *place, shape=(weights.shape[1],))
    key = torch.where(weights > 0, u.log() / weights, -torch.inf)
    best = key.topk(min(groups, weights.shape[1]), dim=-1)
    # In the order of the prompts: ties in keys then cannot matter.
    chosen, order = best.indices.sort(-1)
    return chosen, torch.isfinite(best.values).gather(-1, order)


def _left(logits: Tensor, sampling: Sampling) -> Tensor | None:
    """[N, P, S, V] bool: what top-k and top-p leave; None if all."""
    if sampling.top_p == 1 and sampling.top_k is None:
        return None
    sets = Support.from_top_k_top_p(logits, top_k=sampling.top_k, top_p=sampling.top_p)
    rows = torch.arange(len(sets.offsets) - 1).repeat_interleave(sets.offsets.diff())
    left = torch.zeros(len(sets.offsets) - 1, logits.shape[-1], dtype=torch.bool)
    left[rows, sets.ids.long()] = True
    return left.view(logits.shape)


def _responses(
    task: Task, sampler: Policy, chosen: Tensor, sampling: Sampling, place: tuple[int, int]
) -> Tensor:
    """[N, B]: responses by the inverse of their distribution function."""
    shape = (chosen.shape[1], sampling.group_size)
    drawn = _inverse(
        sampler.responses, chosen, uniforms(task.seeds, RESPONSES, *place, shape=shape)
    )
    if sampling.teacher_traces:
        if task.teacher is None:
            raise ValueError(f"task {task.name}: expected a teacher for teacher traces, got None")
        u = uniforms(task.seeds, TEACHER, *place, shape=(shape[0], sampling.teacher_traces))
        taught = _inverse(task.teacher, chosen, u)
        drawn = torch.cat([drawn[..., : -sampling.teacher_traces], taught], -1)
    return drawn.flatten(1)


def _inverse(probs: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """[N, M, G] from probabilities [N, P, L], prompts [N, M] and u [N, M, G] in (0, 1)."""
    rows = probs.gather(1, chosen[..., None].expand(-1, -1, probs.shape[-1]))
    total = rows.cumsum(-1)
    # The last sum need not round to 1. The first response whose sum reaches u is never of
    # probability 0, for its sum would be that of the one before.
    return torch.searchsorted(total, u * total[..., -1:])


def _step_correct(task: Task, prompt: Tensor, response: Tensor) -> Tensor:
    """[N, B, T] bool: whether a right response can still be reached after the token."""
    tree = task.tree
    right = task.correct.double()
    even = Policy.of(tree, right.new_zeros(*right.shape[:2], tree.size, tree.vocab))
    chances = torch.cat([state_values(even, right), right], -1)
    after = chances[..., tree.successor] > 0
    rows = table_rows(task, after, prompt, response)
    return rows.gather(-1, tree.tokens[response][..., None])[..., 0] & tree.mask[response]


def _teacher_logp(task: Task, prompt: Tensor, response: Tensor) -> Tensor:
    """[N, B, T]: the teacher's, from its probabilities of whole responses."""
    tree, teacher = task.tree, task.teacher
    assert teacher is not None
    passing = teacher[..., None] * tree.mask
    mass = teacher.new_zeros(*teacher.shape[:-1], tree.size)
    flat = tree.states.flatten().expand(*teacher.shape[:-1], -1)
    mass = mass.scatter_add(-1, flat, passing.flatten(-2))
    after = torch.cat([mass, teacher], -1)[..., tree.successor]
    logp = (after / mass[..., None]).nan_to_num(0.0).log()
    rows = table_rows(task, logp, prompt, response)
    return rows.gather(-1, tree.tokens[response][..., None])[..., 0]
