"""From a policy and a task to the responses that one training step learns from."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from entropy_ext import TokenStats
from entropy_ext.recipes import Recipe
from entropy_ext.rl import Rollout
from sim.rlvr.batch import Batch, concatenate
from sim.rlvr.fields import SUPPLIED, Sources, kept_only, supplied
from sim.rlvr.metrics import sampled_metrics, sampled_sums
from sim.rlvr.model import Critic, in_precision
from sim.rlvr.options import chooses_prompts
from sim.rlvr.prompts import Prompts
from sim.rlvr.sampling import Samples, fieldwise, sample
from sim.rlvr.scorer import Scorer
from sim.rlvr.stored import Stored
from sim.rlvr.task import ChainSum
from sim.rlvr.teacher import with_teacher

__all__ = ["Collected", "Collector"]


class Collected(NamedTuple):
    """What a training step starts from."""

    batch: Batch
    """responses to learn from, rewards shaped"""
    metrics: dict[str, float]
    """measures of all responses sampled"""


class Collector:
    """Samples, or draws from what was stored; scores, shapes and keeps, as the recipe says.

    Args:
        policy: samples, and scores what it sampled.
        reference: scores it too.
        critic: gives the values, for a recipe that needs them.
        task: the problems.
        recipe: its hooks before the first update, `sampling` and `needs`.
        scorer: of the run.
        generator: source of all chance.
        prompts: groups to learn from in each step.
        max_length: longest response, tokens.
        survey_prompts: problems that a recipe with a curriculum chooses from.
        stored_prompts: groups in the stored data, where the recipe learns from such.
        sampler_dtype: precision in which the policy samples.
        keep_routing: replay, while training, the experts that were used while sampling.
    """

    def __init__(
        self,
        policy: LlamaForCausalLM,
        reference: LlamaForCausalLM,
        critic: Critic | None,
        task: ChainSum,
        recipe: Recipe,
        scorer: Scorer,
        generator: torch.Generator,
        *,
        prompts: int,
        max_length: int,
        survey_prompts: int,
        stored_prompts: int,
        sampler_dtype: torch.dtype,
        keep_routing: bool,
    ) -> None:
        if missing := sorted(recipe.needs - SUPPLIED):
            raise ValueError(f"recipe {recipe.name} needs {', '.join(missing)}: not supplied here")
        _check_teacher(recipe, task, max_length)
        self.policy = policy
        self.reference = reference
        self.critic = critic
        self.task = task
        self.recipe = recipe
        self.scorer = scorer
        self.generator = generator
        self.groups = prompts
        self.max_length = max_length
        self.stored_prompts = stored_prompts
        self.sampler_dtype = sampler_dtype
        self.keep_routing = keep_routing
        # Only a recipe that chooses its prompts has to know them.
        survey = survey_prompts if chooses_prompts(recipe) else 0
        self.prompts = Prompts(task, survey, generator)
        self.stored: Stored | None = None

    def collect(self, step: int, progress: float) -> Collected:
        """The responses of one training step.

        Groups that the recipe drops are made up for by further draws while its `refill` lasts;
        what then exceeds the wanted number of groups is thrown away.
        """
        draws: list[dict[str, float]] = []
        kept: list[Batch] = []
        for draw in range(1 + self.recipe.sampling.refill):
            batch, sums = self._draw(draw, step, progress)
            draws.append(sums)
            shaped = batch.rollout.replace(rewards=self.recipe.shape_rewards(batch.rollout))
            batch = dataclasses.replace(batch, rollout=shaped)
            kept.append(batch.rows(self.recipe.keep(shaped)))
            if sum(len(batch.rollout.prompt.unique()) for batch in kept) >= self.groups:
                break
        return Collected(_first_groups(concatenate(kept), self.groups), sampled_metrics(draws))

    @torch.no_grad()
    def survey(self) -> None:
        """Measure the semantic entropy of some of the problems that wait for it."""
        groups = self.prompts.waiting[: self.groups]
        samples = self._sampled(groups)
        problems = groups.repeat_interleave(len(samples.tokens) // len(groups))
        self.prompts.surveyed(
            Rollout(
                tokens=samples.tokens,
                mask=samples.mask,
                rewards=torch.zeros(len(problems)),
                prompt=problems,
                old_logp=kept_only(self._stats(self.policy, problems, samples)).logp,
                max_length=self.max_length,
                step=0,
                progress=0.0,
                answers=[self.task.answer(text) for text in self._texts(samples)],
            )
        )

    def state_dict(self) -> dict[str, Any]:
        stored = None if self.stored is None else self.stored.state_dict()
        return {"prompts": self.prompts.state_dict(), "stored": stored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prompts.load_state_dict(state["prompts"])
        stored = state["stored"]
        self.stored = None if stored is None else Stored.from_state(stored)

    @torch.no_grad()
    def _draw(self, draw: int, step: int, progress: float) -> tuple[Batch, dict[str, float]]:
        """A group of responses to each of some problems, scored, and sums over them."""
        weights = self.prompts.weights(self.recipe, progress)
        stats = None
        if self.recipe.sampling.offline:
            if self.stored is None:
                # Of all that any stage of a curriculum may ask for.
                any_time = self.prompts.trainable.float()
                self.stored = self._store(self._problems(any_time, self.stored_prompts))
            groups, samples, stats = self.stored.draw(weights, self.groups, self.generator)
        else:
            groups = self._problems(weights, self.groups)
            samples = self._sample(groups)
        problems = groups.repeat_interleave(self.recipe.sampling.group_size)
        now = self._stats(self.policy, problems, samples)
        reference = self._stats(self.reference, problems, samples)
        texts = self._texts(samples)
        sources = Sources(
            task=self.task,
            problems=problems,
            texts=texts,
            samples=samples,
            correct=self.task.score(problems.tolist(), texts),
            stats=now if stats is None else stats,
            reference=reference,
            values=lambda: self._values(problems, samples),
        )
        rollout = Rollout(
            tokens=samples.tokens,
            mask=samples.mask,
            rewards=sources.correct.float(),
            # A problem drawn again by a later draw of this step is a group of its own.
            prompt=problems + draw * len(self.task),
            old_logp=kept_only(sources.stats).logp,
            max_length=self.max_length,
            step=step,
            progress=progress,
            **supplied(self.recipe.needs, sources),
        )
        own = ~samples.teacher
        self.prompts.tried(problems[own], sources.correct[own])
        batch = Batch(
            self.task.prompt_tokens[problems],
            self.task.prompt_mask[problems],
            rollout,
            sources.stats,
            samples.logp,
            samples.routing,
        )
        stored = self.recipe.sampling.offline
        return batch, sampled_sums(samples, sources.correct, now, reference, stored=stored)

    def _problems(self, weights: Tensor, count: int) -> Tensor:
        """`count` problems, each once, drawn by weight; fewer if fewer have any."""
        count = min(count, int((weights > 0).sum()))
        return torch.multinomial(weights, count, generator=self.generator)

    def _sample(self, groups: Tensor) -> Samples:
        """A group of responses to each problem, the teacher's included."""
        samples, traces = self._sampled(groups), self.recipe.sampling.teacher_traces
        if traces == 0:
            return samples
        solutions, mask = self.task.solution_tokens[groups], self.task.solution_mask[groups]
        return with_teacher(samples, solutions, mask, traces)

    def _sampled(self, groups: Tensor) -> Samples:
        """The policy's own part of a group of responses to each problem."""
        sampling = self.recipe.sampling
        own = sampling.group_size - sampling.teacher_traces
        return sample(
            in_precision(self.policy, self.sampler_dtype),
            self.task.prompt_tokens[groups],
            self.task.prompt_mask[groups],
            max_length=self.max_length,
            sampling=dataclasses.replace(sampling, group_size=own, teacher_traces=0),
            generator=self.generator,
            keep_support="support" in self.recipe.needs,
        )

    def _texts(self, samples: Samples) -> list[str]:
        lengths = samples.mask.sum(-1).tolist()
        rows = zip(samples.tokens.tolist(), lengths, strict=True)
        return [self.task.tokenizer.decode(row[:length]) for row, length in rows]

    def _store(self, groups: Tensor) -> Stored:
        """A group of responses to each problem, by the policy as it is now."""
        parts = [self._sample(some).widened(self.max_length) for some in groups.split(self.groups)]
        samples = fieldwise(lambda values: torch.cat(list(values)), *parts)
        problems = groups.repeat_interleave(self.recipe.sampling.group_size)
        return Stored(groups, samples, self._stats(self.policy, problems, samples))

    def _stats(self, model: LlamaForCausalLM, problems: Tensor, samples: Samples) -> TokenStats:
        return self.scorer.stats(
            model,
            self.task.prompt_tokens[problems],
            self.task.prompt_mask[problems],
            samples.tokens,
            samples.mask,
            support=samples.support(),
            routing=samples.routing if self.keep_routing else None,
        )

    def _values(self, problems: Tensor, samples: Samples) -> Tensor:
        assert self.critic is not None
        return self.scorer.values(
            self.critic,
            self.task.prompt_tokens[problems],
            self.task.prompt_mask[problems],
            samples.tokens,
            samples.mask,
        )


def _check_teacher(recipe: Recipe, task: ChainSum, max_length: int) -> None:
    traces, group = recipe.sampling.teacher_traces, recipe.sampling.group_size
    if not 0 <= traces < group:
        raise ValueError(f"teacher_traces: expected 0 to {group - 1} in a group, got {traces}")
    longest = task.solution_tokens.shape[1]
    if traces > 0 and max_length < longest:
        raise ValueError(
            f"max_length: expected at least {longest}, the longest solution of a teacher, "
            f"got {max_length}"
        )


def _first_groups(batch: Batch, count: int) -> Batch:
    """The responses of the first `count` groups; those of a group stand side by side."""
    prompt = batch.rollout.prompt
    starts = torch.ones_like(prompt, dtype=torch.bool)
    starts[1:] = prompt[1:] != prompt[:-1]
    return batch.rows(starts.cumsum(0) <= count)
