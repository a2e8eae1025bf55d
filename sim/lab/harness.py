"""Training with any recipe, for many seeds at once.

The policy, its gradient and everything exact is one tensor over all seeds. A recipe, whose groups,
means, selections and controllers must not mix seeds, is one instance for each seed and sees a
Rollout of that seed alone; its hooks work on [B, T] numbers, the smaller part of the work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from entropy_ext import TokenStats
from entropy_ext.recipes import PromptStats, Recipe, Targets
from sim.lab.draws import uniforms
from sim.lab.exact import Policy, semantic_entropy
from sim.lab.held import Held, concatenate, hold, stats_map
from sim.lab.measures import KS, Probe, measures
from sim.lab.optimizers import Optimizer, OptimizerName
from sim.lab.sampler import SUPPLIED, Draw, Samples, sample, table_rows, table_stats
from sim.lab.task import Task

__all__ = ["Trainer"]

ORDER = 20
"""stream of random numbers"""


class Trainer:
    """The parameters of all seeds, an optimizer, and a recipe for each seed.

    Rollout.values are exact, those of the policy that wrote, unless critic_rate is given: then a
    table of values is learnt with the recipe's value_loss, alone in the first `value_pretraining`
    steps.

    Args:
        task: of N seeds.
        recipe: makes a recipe; called once for each seed.
        steps: length of the run, for the recipe's schedules.
        learning_rate: of the policy.
        groups: prompts in a batch; None takes all that are trained on.
        optimizer: "sgd" or "adam".
        staleness: steps by which the policy that writes lags behind.
        mismatch: see `sampler.sample`.
        replay_support: see `sampler.sample`; recipes that need it get it anyway.
        stored: batches in the store of a recipe that samples offline, gone through again and again.
        critic_rate: step size on a table of values; None for exact values.

    Raises:
        ValueError: the recipe needs what the task does not know.
    """

    def __init__(
        self,
        task: Task,
        recipe: Callable[[], Recipe],
        *,
        steps: int,
        learning_rate: float,
        groups: int | None = None,
        optimizer: OptimizerName = "sgd",
        staleness: int = 0,
        mismatch: float = 0.0,
        replay_support: bool = False,
        stored: int = 16,
        critic_rate: float | None = None,
    ) -> None:
        self.task = task
        self.recipes = [recipe() for _ in task.seeds]
        self.kind = self.recipes[0]
        if missing := sorted(self.kind.needs - _supplied(task)):
            raise ValueError(
                f"recipe {self.kind.name} needs {', '.join(missing)}: not known to {task.name}"
            )
        self.parameters = task.start.clone().requires_grad_()
        self.reference = task.start.clone()
        self.optimizer = Optimizer(self.parameters, learning_rate, optimizer)
        self.steps = steps
        self.done = 0
        trained = len(range(task.prompts)[task.trained])
        self.groups = trained if groups is None else groups
        self.wanted = self.groups * self.kind.sampling.group_size
        self.mismatch = mismatch
        self.replay_support = replay_support or "support" in self.kind.needs
        self.stored = stored
        self.past = [task.start] * (1 + staleness)
        """parameters of the last steps, the oldest first"""
        self.attempts = torch.zeros(len(task.seeds), trained, dtype=torch.int64)
        self.successes = torch.zeros_like(self.attempts)
        self.start = Policy.of(task.tree, task.logits(task.start))
        self.semantic = semantic_entropy(self.start, task.answers)[:, task.trained]
        self.critic_rate = critic_rate
        self.critic = torch.zeros_like(self.start.visits).requires_grad_()
        self.last: dict[str, Tensor] = {}
        """shares in the last step, [N] each; see `measure`"""

    @property
    def policy(self) -> Policy:
        """The policy now, at temperature 1."""
        return Policy.of(self.task.tree, self.task.logits(self.parameters.detach()))

    def measure(self, ks: Sequence[int] = KS, probe: Probe | None = None) -> dict[str, Tensor]:
        """`measures` of the policy, the probe's, and these of the last step, [N] each.

        clip_low, clip_high: share of tokens that a bound on the ratio held. kept: responses learnt
        from over those wanted. NaN before the first step. sampled: responses drawn so far.
        """
        policy = self.policy
        unknown = torch.full((len(self.recipes),), torch.nan, dtype=torch.float64)
        shares = {name: self.last.get(name, unknown) for name in ("clip_low", "clip_high", "kept")}
        probed = probe(self.task, policy) if probe else {}
        drawn = {"sampled": self.attempts.sum(-1).double()}
        return {**measures(self.task, policy, self.start, ks), **shares, **drawn, **probed}

    def step(self) -> None:
        """One training step of every seed."""
        held = self._collect()
        targets = [
            recipe.targets(mine.rollout) if len(mine) else None
            for recipe, mine in zip(self.recipes, held, strict=True)
        ]
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(len(held)).double())
        for epoch in range(self.kind.epochs):
            u = uniforms(self.task.seeds, ORDER, self.done, epoch, shape=(self.wanted,))
            orders = [
                u[n, : len(mine)].argsort().tensor_split(self.kind.minibatches)
                for n, mine in enumerate(held)
            ]
            for part in range(self.kind.minibatches):
                whole = self.kind.minibatches == 1
                self._update(
                    [
                        mine if whole else mine.rows(order[part])
                        for mine, order in zip(held, orders, strict=True)
                    ],
                    [
                        goal if whole or goal is None else goal.rows(order[part])
                        for goal, order in zip(targets, orders, strict=True)
                    ],
                    sums,
                )
        tokens = sums["tokens"].clamp(min=1)
        self.last = {name: sums[name] / tokens for name in ("clip_low", "clip_high")}
        self.last["kept"] = torch.tensor([len(mine) for mine in held]).double() / self.wanted
        self.done += 1
        self.past = [*self.past[1:], self.parameters.detach().clone()]
        self._carry_out_requests()

    def _collect(self) -> list[Held]:
        """What each seed learns from, rewards shaped.

        Groups that the recipe drops are made up for by further batches while its `refill` lasts;
        what then exceeds the wanted number is thrown away.
        """
        parts: list[list[Held]] = [[] for _ in self.recipes]
        for refill in range(1 + self.kind.sampling.refill):
            short = [n for n, mine in enumerate(parts) if sum(map(len, mine)) < self.wanted]
            if not short:
                break
            samples = self._sample(refill)
            for n in short:
                mine, recipe = hold(samples, n), self.recipes[n]
                assert mine.rollout.correct is not None
                self.attempts[n] += mine.prompt.bincount(minlength=self.attempts.shape[1])
                right = mine.prompt[mine.rollout.correct]
                self.successes[n] += right.bincount(minlength=self.attempts.shape[1])
                shaped = mine.rollout.replace(rewards=recipe.shape_rewards(mine.rollout))
                keep = recipe.keep(shaped)
                mine = replace(mine, rollout=shaped)
                parts[n].append(mine if bool(keep.all()) else mine.rows(keep))
        held = [concatenate(mine) for mine in parts]
        return [mine.rows(slice(self.wanted)) if len(mine) > self.wanted else mine for mine in held]

    @torch.no_grad()
    def _sample(self, refill: int) -> Samples:
        """One batch for every seed."""
        task, sampling = self.task, self.kind.sampling
        progress = self.done / self.steps
        weights = [
            recipe.select_prompts(
                PromptStats(
                    self.attempts[n],
                    self.successes[n],
                    self.semantic[n],
                    None if task.domain is None else task.domain[task.trained],
                ),
                progress,
            )
            for n, recipe in enumerate(self.recipes)
        ]
        writes = task.start if sampling.offline else self.past[0]
        return sample(
            task,
            task.logits(writes),
            task.logits(self.reference),
            torch.stack(weights).double(),
            Draw(
                self.done, progress, refill, self.done % self.stored if sampling.offline else None
            ),
            sampling=sampling,
            groups=self.groups,
            mismatch=self.mismatch,
            replay_support=self.replay_support,
            values=None if self.critic_rate is None else self.critic.detach(),
            wanted=self.kind.needs,
            extras=self.kind.extras and self.kind.statistics == "rollout",
        )

    def _update(
        self,
        batch: Sequence[Held],
        targets: Sequence[Targets | None],
        sums: defaultdict[str, Tensor],
    ) -> None:
        """One optimizer step; seeds without anything to learn from sit it out."""
        task = self.task
        prompt = pad_sequence([mine.prompt for mine in batch], batch_first=True)
        response = pad_sequence([mine.response for mine in batch], batch_first=True)
        if prompt.shape[1] == 0:
            return
        mask = pad_sequence([mine.rollout.mask for mine in batch], batch_first=True)
        kept = None
        if batch[0].kept is not None:
            allowed = [mine.kept for mine in batch if mine.kept is not None]
            kept = pad_sequence(allowed, batch_first=True)
        stats = table_stats(
            task,
            task.logits(self.parameters),
            prompt,
            response,
            mask,
            temperature=self.kind.sampling.temperature,
            kept=kept,
            extras=self.kind.extras,
        )
        values = table_rows(task, self.critic[..., None], prompt, response)[..., 0]
        learns_values = self.critic_rate is not None and "values" in self.kind.needs
        pretrains = learns_values and self.done < self.kind.value_pretraining
        # unbind and not stats[n]: its backward stacks the seeds' gradients once.
        every = {
            name: value.unbind() for name, value in stats._asdict().items() if value is not None
        }
        predicted = values.unbind()
        losses = []
        for n, (held, goal, recipe) in enumerate(zip(batch, targets, self.recipes, strict=True)):
            if len(held) == 0 or goal is None:
                continue
            size = len(held)
            own = stats._replace(**{name: value[n][:size] for name, value in every.items()})
            plan = recipe.prepare(self._before(own, held), held.rollout, goal)
            if not pretrains:
                loss, metrics = recipe.token_loss(own, held.rollout, goal, plan)
                losses.append(plan.aggregate(loss))
                for name in ("tokens", "clip_low", "clip_high"):
                    sums[name][n] += metrics.get(name, 0)
            if learns_values:
                value_loss = recipe.value_loss(predicted[n][:size], held.rollout, goal)
                losses.append(plan.aggregate(value_loss.loss))
        if not losses:
            return
        # The parameters of a seed meet its own losses alone: the gradient of the sum is theirs.
        policy, critic = torch.autograd.grad(
            torch.stack(losses).sum(), (self.parameters, self.critic), allow_unused=True
        )
        active = torch.tensor([len(held) > 0 for held in batch])
        if policy is not None:
            self.optimizer.step(policy, active)
        if critic is not None and self.critic_rate is not None:
            with torch.no_grad():
                self.critic -= self.critic_rate * critic

    def _before(self, own: TokenStats, held: Held) -> TokenStats | None:
        """The statistics that `prepare` is promised."""
        if self.kind.statistics == "micro":
            return None
        stats = held.stats if self.kind.statistics == "rollout" else own
        return stats_map(stats, Tensor.detach)

    def _carry_out_requests(self) -> None:
        if all(type(recipe).after_step is Recipe.after_step for recipe in self.recipes):
            return
        start = Policy.of(self.task.tree, self.task.logits(self.reference))
        found = measures(self.task, self.policy, start, ks=(1,))
        found["kl_reference"] = found["kl"] / found["length"]
        forget = torch.zeros(len(self.recipes), dtype=torch.bool)
        for n, recipe in enumerate(self.recipes):
            actions = recipe.after_step({name: float(value[n]) for name, value in found.items()})
            if actions.reset_reference:
                self.reference[n] = self.parameters.detach()[n]
            forget[n] = actions.reset_optimizer
        self.optimizer.reset(forget)


def _supplied(task: Task) -> frozenset[str]:
    absent = set() if task.domain is not None else {"domain"}
    absent |= set() if task.teacher is not None else {"teacher", "teacher_logp"}
    return SUPPLIED - absent
