"""One training step of any recipe: sample, score, keep, update."""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaForCausalLM

from entropy_ext import TokenStats
from entropy_ext.recipes import PromptStats, Recipe, Targets
from entropy_ext.rl import Rollout
from sim.rlvr.batch import Batch, concatenate
from sim.rlvr.model import response_stats
from sim.rlvr.sampling import sample
from sim.rlvr.task import ChainSum

__all__ = ["Trainer"]

SUPPLIED = {"old_entropy", "ref_logp", "rollout_logp", "correct", "answers", "truncated"}
"""The optional Rollout fields filled here; a recipe that needs another is refused."""


class Trainer:
    """A policy, its optimizer, a recipe, and all that a checkpoint must hold of them.

    Args:
        model: the policy, trained in place; a copy of it becomes the reference.
        task: problems to train on.
        recipe: how to train.
        steps: length of the whole run, for the recipe's schedules.
        seed: of problems, samples and the order of mini-batches.
        prompts: groups to learn from in each step.
        learning_rate: of AdamW, constant.
        max_length: longest response, tokens.
        micro_batch: most sequences in one forward pass.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        task: ChainSum,
        recipe: Recipe,
        *,
        steps: int,
        seed: int,
        prompts: int,
        learning_rate: float,
        max_length: int,
        micro_batch: int,
    ) -> None:
        missing = sorted(recipe.needs - SUPPLIED)
        if recipe.sampling.teacher_traces or recipe.sampling.offline:
            missing.append("teacher traces" if recipe.sampling.teacher_traces else "stored data")
        if missing:
            raise ValueError(f"recipe {recipe.name} needs {', '.join(missing)}: not supplied here")
        self.model = model
        # Not frozen by requires_grad_(False): matrix products then round differently, and the
        # divergence from a copy of oneself would not be 0.
        self.reference = copy.deepcopy(model)
        self.task = task
        self.recipe = recipe
        self.steps = steps
        self.prompts = prompts
        self.learning_rate = learning_rate
        self.max_length = max_length
        self.micro_batch = micro_batch
        self.done = 0
        self.generator = torch.Generator().manual_seed(seed)
        self.attempts = torch.zeros(len(task), dtype=torch.int64)
        self.successes = torch.zeros(len(task), dtype=torch.int64)
        self.optimizer = self._new_optimizer()

    def step(self) -> dict[str, float]:
        """Sample, update, and say what happened; the columns of `records.COLUMNS`."""
        sampled, kept = self._collect()
        targets = self.recipe.targets(kept.rollout)
        sums: defaultdict[str, float] = defaultdict(float)
        for _ in range(self.recipe.epochs):
            order = torch.randperm(len(kept), generator=self.generator)
            for part in order.tensor_split(self.recipe.minibatches):
                if len(part) > 0:
                    for name, value in self._update(kept.rows(part), targets.rows(part)).items():
                        sums[name] += value
        metrics = {**_sampled_metrics(sampled.rollout), **_update_metrics(sums), "kept": len(kept)}
        self._carry_out_requests(metrics)
        self.done += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "reference": self.reference.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "recipe": self.recipe.state_dict(),
            "generator": self.generator.get_state(),
            "attempts": self.attempts,
            "successes": self.successes,
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.model.load_state_dict(state["model"])
        self.reference.load_state_dict(state["reference"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.recipe.load_state_dict(state["recipe"])
        self.generator.set_state(state["generator"])
        self.attempts = state["attempts"]
        self.successes = state["successes"]
        self.done = state["done"]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.model.parameters(), lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )

    def _collect(self) -> tuple[Batch, Batch]:
        """All the responses sampled, and those to learn from, rewards shaped.

        Groups that the recipe drops are made up for by further batches while its `refill` lasts;
        what then exceeds the wanted number is thrown away.
        """
        wanted = self.prompts * self.recipe.sampling.group_size
        sampled: list[Batch] = []
        kept: list[Batch] = []
        for draw in range(1 + self.recipe.sampling.refill):
            batch = self._sample(draw)
            sampled.append(batch)
            shaped = batch.rollout.replace(rewards=self.recipe.shape_rewards(batch.rollout))
            batch = dataclasses.replace(batch, rollout=shaped)
            kept.append(batch.rows(self.recipe.keep(shaped)))
            if sum(map(len, kept)) >= wanted:
                break
        return concatenate(sampled), concatenate(kept).rows(slice(wanted))

    @torch.no_grad()
    def _sample(self, draw: int) -> Batch:
        """One group of responses to each of `prompts` problems, scored."""
        progress = self.done / self.steps
        weights = self.recipe.select_prompts(PromptStats(self.attempts, self.successes), progress)
        problems = torch.multinomial(weights, self.prompts, generator=self.generator)
        sampling = self.recipe.sampling
        samples = sample(
            self.model,
            self.task.prompt_tokens[problems],
            self.task.prompt_mask[problems],
            max_length=self.max_length,
            sampling=sampling,
            generator=self.generator,
        )
        problems = problems.repeat_interleave(sampling.group_size)
        texts = [self.task.tokenizer.decode(row) for row in samples.tokens.tolist()]
        correct = self.task.score(problems.tolist(), texts)
        self.attempts += torch.bincount(problems, minlength=len(self.task))
        self.successes += torch.bincount(problems[correct], minlength=len(self.task))

        prompt, prompt_mask = self.task.prompt_tokens[problems], self.task.prompt_mask[problems]
        rollout = Rollout(
            tokens=samples.tokens,
            mask=samples.mask,
            rewards=correct.float(),
            # A problem drawn again by a later draw of this step is a group of its own.
            prompt=problems + draw * len(self.task),
            old_logp=samples.logp,
            rollout_logp=samples.logp,
            max_length=self.max_length,
            step=self.done,
            progress=progress,
            correct=correct,
            answers=[text or None for text in texts],
            truncated=samples.truncated,
        )
        stats = self._stats(self.model, prompt, prompt_mask, rollout)
        reference = self._stats(self.reference, prompt, prompt_mask, rollout)
        rollout = rollout.replace(
            old_logp=stats.logp, old_entropy=stats.entropy, ref_logp=reference.logp
        )
        return Batch(prompt, prompt_mask, rollout, stats)

    @torch.no_grad()
    def _stats(
        self,
        model: LlamaForCausalLM,
        prompt: torch.Tensor,
        prompt_mask: torch.Tensor,
        rollout: Rollout,
    ) -> TokenStats:
        """Statistics of every response token under a model, without gradient."""
        parts = [
            response_stats(
                model,
                prompt[rows],
                prompt_mask[rows],
                rollout.tokens[rows],
                rollout.mask[rows],
                temperature=self.recipe.sampling.temperature,
            )[:3]
            for rows in self._micro_batches(len(prompt))
        ]
        return TokenStats(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _update(self, batch: Batch, targets: Targets) -> dict[str, float]:
        """One optimizer step on a mini-batch; sums over its tokens."""
        before = None
        if self.recipe.statistics == "rollout":
            before = batch.stats
        elif self.recipe.statistics == "minibatch":
            before = self._stats(self.model, batch.prompt, batch.prompt_mask, batch.rollout)
        plan = self.recipe.prepare(before, batch.rollout, targets)
        self.optimizer.zero_grad()
        sums: defaultdict[str, float] = defaultdict(float)
        for rows in self._micro_batches(len(batch)):
            micro, share = batch.rows(rows), plan.rows(rows)
            stats = response_stats(
                self.model,
                micro.prompt,
                micro.prompt_mask,
                micro.rollout.tokens,
                micro.rollout.mask,
                temperature=self.recipe.sampling.temperature,
            )
            token_loss = self.recipe.token_loss(stats, micro.rollout, targets.rows(rows), share)
            loss = share.aggregate(token_loss.loss)
            loss.backward()
            for name, value in token_loss.metrics.items():
                sums[name] += value.item()
            sums["loss"] += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {**sums, "gradient_norm": norm.item(), "updates": 1}

    def _micro_batches(self, size: int) -> list[slice]:
        return [slice(at, at + self.micro_batch) for at in range(0, size, self.micro_batch)]

    def _carry_out_requests(self, metrics: dict[str, float]) -> None:
        actions = self.recipe.after_step(metrics)
        if actions.reset_reference:
            self.reference.load_state_dict(self.model.state_dict())
        if actions.reset_optimizer:
            self.optimizer = self._new_optimizer()


def _sampled_metrics(rollout: Rollout) -> dict[str, float]:
    """Measures of all the responses sampled, dropped groups included, before any update."""
    assert rollout.correct is not None
    assert rollout.old_entropy is not None
    assert rollout.ref_logp is not None
    assert rollout.truncated is not None
    tokens = rollout.mask.sum()
    log_ratio = rollout.ref_logp - rollout.old_logp
    return {
        "reward": rollout.correct.float().mean().item(),
        "entropy": (rollout.old_entropy.sum() / tokens).item(),
        "kl_reference": ((log_ratio.expm1() - log_ratio).sum() / tokens).item(),
        "length": rollout.lengths.float().mean().item(),
        "truncated": rollout.truncated.float().mean().item(),
        "sampled": len(rollout.mask),
    }


def _update_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Measures of the optimizer steps: means over tokens, and over steps."""
    # Without anything to learn from there was no optimizer step, and the means are 0.
    tokens, updates = max(sums["tokens"], 1), max(sums["updates"], 1)
    clipped = sums["clip_low"] + sums["clip_high"] + sums["dual_clip"]
    return {
        "clip_fraction": clipped / tokens,
        "clip_low": sums["clip_low"] / tokens,
        "clip_high": sums["clip_high"] / tokens,
        "kl_old": sums["kl_old"] / tokens,
        "nonfinite_logp": sums["nonfinite_logp"],
        "loss": sums["loss"] / updates,
        "gradient_norm": sums["gradient_norm"] / updates,
        "updates": sums["updates"],
    }
