"""Training with any recipe, for many seeds at once.

The policy, its gradient and everything exact is one tensor over all seeds. A recipe, whose groups,
means, selections and controllers must not mix seeds, is one instance for each seed and sees a
Rollout of that seed alone; torch.vmap calls the hooks of many seeds at once where it can.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from entropy_ext.recipes import PromptStats, Recipe
from sim.lab.draws import uniforms
from sim.lab.exact import Policy, semantic_entropy
from sim.lab.held import Held, Named, apart, concatenate, hold, pick, side_by_side, split
from sim.lab.hooks import kept, learn, shaped, targets
from sim.lab.measures import KS, Probe, measures
from sim.lab.optimizers import Optimizer, OptimizerName
from sim.lab.over_seeds import Hook, alike, over_seeds, overrides
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
        learning_rate: of the policy, one for all seeds or [N].
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
        learning_rate: float | Tensor,
        groups: int | None = None,
        optimizer: OptimizerName = "sgd",
        staleness: int = 0,
        mismatch: float | Tensor = 0.0,
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
        self.replay_support = replay_support or "support" in self.kind.needs
        self.together = alike(self.recipes) and not self.replay_support
        self.parameters = task.start.clone().requires_grad_()
        self.reference = task.start.clone()
        self.optimizer = Optimizer(self.parameters, learning_rate, optimizer)
        self.steps = steps
        self.done = 0
        trained = len(range(task.prompts)[task.trained])
        self.groups = trained if groups is None else groups
        self.wanted = self.groups * self.kind.sampling.group_size
        self.mismatch = mismatch
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
        from over those wanted. kl_reference: divergence from the reference at the end of the step,
        before any reset, nats per token, if the recipe overrides `after_step`. NaN before the first
        step. sampled: responses drawn so far.
        """
        policy = self.policy
        unknown = torch.full((len(self.recipes),), torch.nan, dtype=torch.float64)
        told = ("clip_low", "clip_high", "kept", "kl_reference")
        shares = {name: self.last.get(name, unknown) for name in told}
        probed = probe(self.task, policy) if probe else {}
        drawn = {"sampled": self.attempts.sum(-1).double()}
        return {**measures(self.task, policy, self.start, ks), **shares, **drawn, **probed}

    def step(self) -> None:
        """One training step of every seed."""
        held = self._collect()
        goals = [self._call(targets, mine) for mine in held]
        sums: defaultdict[str, Tensor] = defaultdict(
            lambda: torch.zeros(len(self.recipes), dtype=torch.float64)
        )
        for epoch in range(self.kind.epochs):
            u = uniforms(self.task.seeds, ORDER, self.done, epoch, shape=(self.wanted,))
            orders = [
                u[mine.seeds, : len(mine)].argsort(-1).tensor_split(self.kind.minibatches, -1)
                for mine in held
            ]
            for part in range(self.kind.minibatches):
                if self.kind.minibatches == 1:
                    self._update(held, goals, sums)
                    continue
                rows = [order[part] for order in orders]
                there = [place for place, index in enumerate(rows) if index.shape[1]]
                every = [torch.arange(len(index)) for index in rows]
                self._update(
                    [held[place].pick(every[place], rows[place]) for place in there],
                    [pick(goals[place], every[place], rows[place]) for place in there],
                    sums,
                )
        tokens = sums["tokens"].clamp(min=1)
        self.last = {name: sums[name] / tokens for name in ("clip_low", "clip_high")}
        self.last["kept"] = torch.zeros_like(tokens)
        for mine in held:
            self.last["kept"][mine.seeds] = len(mine) / self.wanted
        self.done += 1
        self.past = [*self.past[1:], self.parameters.detach().clone()]
        self._carry_out_requests()

    def _call(self, hook: Hook, held: Held, *parts: Named) -> Named:
        return over_seeds(held, self.recipes, self.together, hook, *parts)

    def _collect(self) -> list[Held]:
        """What the seeds learn from, rewards shaped.

        Groups that the recipe drops are made up for by further batches while its `refill` lasts;
        what then exceeds the wanted number is thrown away.
        """
        batches: list[Held] = []
        keeps = torch.zeros(len(self.recipes), 0, dtype=torch.bool)
        for refill in range(1 + self.kind.sampling.refill):
            short = keeps.sum(1) < self.wanted
            if not short.any():
                break
            samples = self._sample(refill, short)
            drawn = samples.live
            right = drawn & samples.fields["correct"]
            self.attempts.scatter_add_(1, samples.prompt, drawn.long())
            self.successes.scatter_add_(1, samples.prompt, right.long())
            batch, keep = self._shape(hold(samples), drawn)
            batches.append(batch)
            keeps = torch.cat([keeps, keep], 1)
        keeps &= keeps.cumsum(1) <= self.wanted
        return [mine for mine, _ in split(concatenate(batches), keeps)]

    def _shape(self, held: Held, drawn: Tensor) -> tuple[Held, Tensor]:
        """With the recipe's rewards, and what of the drawn responses [N, B] it keeps."""
        shapes, drops = (overrides(self.kind, hook) for hook in ("shape_rewards", "keep"))
        if not shapes and not drops:
            return held, drawn
        rewards, keep = held.fields["rewards"].clone(), drawn.clone()
        for part, rows in split(held, drawn):
            place = part.seeds[:, None], rows
            mine = part
            if shapes:
                mine = part.shaped(self._call(shaped, part)["rewards"])
                rewards[place] = mine.fields["rewards"]
            if drops:
                keep[place] = self._call(kept, mine)["keep"]
        return held.shaped(rewards), keep

    @torch.no_grad()
    def _sample(self, refill: int, short: Tensor | None = None) -> Samples:
        """One batch for every seed, or those `short` [N] of responses; fillers for the others."""
        task, sampling = self.task, self.kind.sampling
        progress = self.done / self.steps
        weights = torch.ones_like(self.attempts, dtype=torch.float64)
        if overrides(self.kind, "select_prompts"):
            domain = None if task.domain is None else task.domain[task.trained]
            known = zip(self.attempts, self.successes, self.semantic, strict=True)
            for n, seen in enumerate(known):
                weights[n] = self.recipes[n].select_prompts(PromptStats(*seen, domain), progress)
        if short is not None:
            weights[~short] = 0.0
        writes = task.start if sampling.offline else self.past[0]
        return sample(
            task,
            task.logits(writes),
            task.logits(self.reference),
            weights,
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
        self, batch: Sequence[Held], goals: Sequence[Named], sums: defaultdict[str, Tensor]
    ) -> None:
        """One optimizer step; seeds without anything to learn from sit it out."""
        if not batch:
            return
        task = self.task
        own = side_by_side(batch, len(self.recipes))
        stats = table_stats(
            task,
            task.logits(self.parameters),
            own["prompt"],
            own["response"],
            own["mask"],
            temperature=self.kind.sampling.temperature,
            kept=own.get("kept"),
            extras=self.kind.extras,
        )
        now = {name: value for name, value in stats._asdict().items() if value is not None}
        learns_values = self.critic_rate is not None and "values" in self.kind.needs
        if learns_values:
            places = own["prompt"], own["response"]
            now["predicted"] = table_rows(task, self.critic[..., None], *places)[..., 0]
        hook = partial(learn, pretrains=learns_values and self.done < self.kind.value_pretraining)
        losses = []
        for mine, goal, new in zip(batch, goals, apart(now, batch), strict=True):
            found = self._call(hook, mine, goal, mine.stats, new)
            losses.append(found.pop("loss"))
            for name, value in found.items():
                sums[name][mine.seeds] += value
        # The parameters of a seed meet its own losses alone: the gradient of the sum is theirs.
        policy, critic = torch.autograd.grad(
            torch.cat(losses).sum(), (self.parameters, self.critic), allow_unused=True
        )
        active = torch.zeros(len(self.recipes), dtype=torch.bool)
        for mine in batch:
            active[mine.seeds] = True
        if policy is not None:
            self.optimizer.step(policy, active)
        if critic is not None and self.critic_rate is not None:
            with torch.no_grad():
                self.critic -= self.critic_rate * critic

    def _carry_out_requests(self) -> None:
        if all(type(recipe).after_step is Recipe.after_step for recipe in self.recipes):
            return
        start = Policy.of(self.task.tree, self.task.logits(self.reference))
        found = measures(self.task, self.policy, start, ks=(1,))
        found["kl_reference"] = found["kl"] / found["length"]
        self.last["kl_reference"] = found["kl_reference"]
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
