"""One training step of any recipe: collect, aim, update; and one of its value head alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from transformers import LlamaForCausalLM

from entropy_ext.recipes import Plan, Recipe, Targets
from entropy_ext.rl.aggregate import aggregate, count
from sim.rlvr.batch import Batch
from sim.rlvr.collect import Collector
from sim.rlvr.drift import routing_drift
from sim.rlvr.losses import check_chunked_head, policy_loss
from sim.rlvr.metrics import critic_metrics, update_metrics
from sim.rlvr.model import Critic
from sim.rlvr.scorer import Scorer
from sim.rlvr.task import ChainSum

__all__ = ["Trainer"]

CRITIC_LEARNING_RATE = 2.0
"""times the policy's, as in VAPO"""


class Trainer:
    """A policy, its optimizer, a recipe, and all that a checkpoint must hold of them.

    Args:
        model: the policy, trained in place; a copy of it becomes the reference, and another the
            trunk of a critic if the recipe needs values.
        task: problems to train on.
        recipe: how to train.
        steps: length of the whole run, for the recipe's schedules.
        seed: of problems, samples and the order of mini-batches.
        prompts: groups to learn from in each step.
        learning_rate: of AdamW, constant.
        max_length: longest response, tokens.
        micro_batch: most sequences in one forward pass.
        survey_prompts: problems that a recipe with a curriculum chooses from.
        stored_prompts: groups in the stored data, where the recipe learns from such.
        sampler_dtype: precision in which the policy samples.
        keep_routing: of a model with experts: replay those that were used while sampling.
        chunked_head: train and score without ever holding the logits of all tokens; sampling holds
            those of one token per response.
        chunk_tokens: with chunked_head: most tokens whose logits exist at once, no fewer than
            max_length; None takes what fits 256 MiB.

    Raises:
        ValueError: a chunked head for a recipe that needs "support"; chunks too short.
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
        survey_prompts: int = 2048,
        stored_prompts: int = 512,
        sampler_dtype: torch.dtype = torch.float32,
        keep_routing: bool = False,
        chunked_head: bool = False,
        chunk_tokens: int | None = None,
    ) -> None:
        check_chunked_head(recipe, chunked_head, chunk_tokens, max_length)
        self.model = model
        # Not frozen by requires_grad_(False): matrix products then round differently, and the
        # divergence from a copy of oneself would not be 0.
        self.reference = copy.deepcopy(model)
        self.critic = Critic(model) if "values" in recipe.needs else None
        self.recipe = recipe
        self.steps = steps
        self.learning_rate = learning_rate
        self.keep_routing = keep_routing
        self.scorer = Scorer(
            temperature=recipe.sampling.temperature,
            micro_batch=micro_batch,
            extras=recipe.extras,
            chunked_head=chunked_head,
            chunk_tokens=chunk_tokens,
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.collector = Collector(
            model,
            self.reference,
            self.critic,
            task,
            recipe,
            self.scorer,
            self.generator,
            prompts=prompts,
            max_length=max_length,
            survey_prompts=survey_prompts,
            stored_prompts=stored_prompts,
            sampler_dtype=sampler_dtype,
            keep_routing=keep_routing,
        )
        self.done = 0
        self.pretrained = 0
        self._new_optimizers()

    def step(self, validate: Callable[[], float] | None = None) -> dict[str, float]:
        """Collect, update, and say what happened; the columns of `records.COLUMNS` and more.

        Args:
            validate: measures the updated policy on held-out problems, before the recipe is asked
                what to do next.
        """
        batch, metrics = self.collector.collect(self.done, self.done / self.steps)
        metrics = {**metrics, "kept": len(batch), **self._learn(batch)}
        if validate is not None:
            metrics["held_out"] = validate()
        actions = self.recipe.after_step(metrics)
        if actions.reset_reference:
            self.reference.load_state_dict(self.model.state_dict())
        if actions.reset_optimizer:
            self._new_optimizers()
        self.done += 1
        return metrics

    @property
    def preparations(self) -> int:
        """Calls of `prepare` that are left before the first step."""
        waiting = len(self.collector.prompts.waiting)
        surveys = -(-waiting // self.collector.groups)
        return surveys + self.recipe.value_pretraining - self.pretrained

    def prepare(self) -> dict[str, float]:
        """Do some of what comes before the first step; measures of the value head, if it was that.

        First the survey that a curriculum needs, then the steps that train the value head alone.
        """
        if len(self.collector.prompts.waiting) > 0:
            self.collector.survey()
            return {}
        if self.critic is None:
            raise ValueError(f"recipe {self.recipe.name}: value_pretraining without needing values")
        batch, _ = self.collector.collect(0, 0.0)
        sums: defaultdict[str, float] = defaultdict(float)
        for part, targets in self._parts_of(batch):
            _add(sums, self._update_critic(self.critic, part, targets))
        self.pretrained += 1
        return critic_metrics(sums)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            **{name: part.state_dict() for name, part in self._parts()},
            "generator": self.generator.get_state(),
            "done": self.done,
            "pretrained": self.pretrained,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name, part in self._parts():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.done = state["done"]
        self.pretrained = state["pretrained"]

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield "model", self.model
        yield "reference", self.reference
        yield "optimizer", self.optimizer
        yield "recipe", self.recipe
        yield "collector", self.collector
        if self.critic is not None:
            yield "critic", self.critic
            yield "critic_optimizer", self.critic_optimizer

    def _new_optimizers(self) -> None:
        self.optimizer = _adamw(self.model, self.learning_rate)
        if self.critic is not None:
            self.critic_optimizer = _adamw(self.critic, CRITIC_LEARNING_RATE * self.learning_rate)

    def _learn(self, batch: Batch) -> dict[str, float]:
        """Every optimizer step on a collected batch, and what happened there."""
        metrics = self._drift(batch, "before")
        sums: defaultdict[str, float] = defaultdict(float)
        critic_sums: defaultdict[str, float] = defaultdict(float)
        for part, targets in self._parts_of(batch):
            _add(sums, self._update(part, targets))
            if self.critic is not None:
                _add(critic_sums, self._update_critic(self.critic, part, targets))
        metrics |= update_metrics(sums) | self._drift(batch, "after")
        return metrics if self.critic is None else metrics | critic_metrics(critic_sums)

    def _drift(self, batch: Batch, when: str) -> dict[str, float]:
        if batch.routing is None:
            return {}
        return routing_drift(self.model, batch, self.scorer, when)

    def _parts_of(self, batch: Batch) -> Iterator[tuple[Batch, Targets]]:
        """The mini-batches of every epoch, in random order."""
        targets = self.recipe.targets(batch.rollout)
        for _ in range(self.recipe.epochs):
            order = torch.randperm(len(batch), generator=self.generator)
            for part in order.tensor_split(self.recipe.minibatches):
                if len(part) > 0:
                    yield batch.rows(part), targets.rows(part)

    def _update(self, batch: Batch, targets: Targets) -> dict[str, float]:
        """One optimizer step of the policy on a mini-batch; sums over its tokens."""
        plan = self._plan(batch, targets)
        self.optimizer.zero_grad()
        sums: defaultdict[str, float] = defaultdict(float)
        for rows in self.scorer.slices(len(batch)):
            micro = batch.rows(rows)
            loss, metrics = policy_loss(
                *(self.model, self.recipe, micro, targets.rows(rows), plan.rows(rows), self.scorer),
                routing=micro.routing if self.keep_routing else None,
            )
            loss.backward()
            sums["loss"] += loss.item()
            for name, value in metrics.items():
                sums[name] += value.item()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        sums["tokens"] = plan.mask.sum().item()
        return {**sums, "gradient_norm": norm.item(), "updates": 1}

    def _plan(self, batch: Batch, targets: Targets) -> Plan:
        before = None
        if self.recipe.statistics == "rollout":
            before = batch.stats
        elif self.recipe.statistics == "minibatch":
            before = self.scorer.stats(
                self.model,
                *batch.texts,
                support=batch.support,
                routing=batch.routing if self.keep_routing else None,
            )
        return self.recipe.prepare(before, batch.rollout, targets)

    def _update_critic(self, critic: Critic, batch: Batch, targets: Targets) -> dict[str, float]:
        """One optimizer step of the critic on a mini-batch; sums over its tokens."""
        assert targets.returns is not None
        rollout = batch.rollout
        normalizer = count(rollout.mask, self.recipe.aggregation)
        self.critic_optimizer.zero_grad()
        sums: defaultdict[str, float] = defaultdict(float)
        for rows in self.scorer.slices(len(batch)):
            micro = batch.rows(rows)
            values = critic(*micro.texts)
            value_loss = self.recipe.value_loss(values, micro.rollout, targets.rows(rows))
            loss = aggregate(
                value_loss.loss,
                micro.rollout.mask,
                self.recipe.aggregation,
                normalizer=normalizer,
                max_length=rollout.max_length,
            )
            loss.backward()
            sums["value_loss"] += loss.item()
            for name, value in value_loss.metrics.items():
                sums[name] += value.item()
        norm = nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        self.critic_optimizer.step()
        returns = targets.returns[rollout.mask]
        sums["value_spread"] = (returns - returns.mean()).square().sum().item()
        return {**sums, "value_gradient_norm": norm.item(), "updates": 1}


def _add(sums: defaultdict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        sums[name] += value


def _adamw(module: nn.Module, learning_rate: float) -> AdamW:
    return AdamW(module.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
