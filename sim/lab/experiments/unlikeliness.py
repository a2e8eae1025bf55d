"""GRPO's rank bias, and what rewarding the unlikely does about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from matplotlib.axes import Axes
from torch import Tensor

from sim.lab.compare import Arm, arm, compare, difference, difference_at
from sim.lab.exact import Policy, pass_at_k
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves, style
from sim.lab.harness import Trainer
from sim.lab.measures import trained
from sim.lab.statistics import Interval, interval, paired
from sim.lab.tables import Table, Tables
from sim.lab.task import Task
from sim.lab.tasks import prompt_set, random_bandit

RIGHT, COPIES, RATE, LEVEL, LARGE = 8, 32, 2.0, 0.6, "held-out pass@256"


def _arm(beta: float, epochs: int) -> Arm:
    """With the same groups, filter and normaliser for all, and without the recipe's KL penalty."""
    return arm("unlikeliness", beta=beta, epochs=epochs, kl_coef=0.0)


GRPO, UNLIKELY = "GRPO", "unlikeliness"
GRPO_MORE, UNLIKELY_MORE = "GRPO, 4 epochs", "unlikeliness, 4 epochs"
ARMS = {
    GRPO: _arm(0.0, 1),
    UNLIKELY: _arm(0.25, 1),
    GRPO_MORE: _arm(0.0, 4),
    UNLIKELY_MORE: _arm(0.25, 4),
}


def _copies(task: Task) -> Task:
    """The one prompt many times over: the mean over the copies is an expectation over groups."""
    parts = {
        name: getattr(task, name).expand(-1, COPIES, *getattr(task, name).shape[2:]).contiguous()
        for name in ("start", "correct", "answers")
    }
    return replace(task, **parts)


def _ranks(profile: Profile) -> Table:
    """Mean change of ln π of each right arm in one training step, from the likeliest on."""
    bandit = random_bandit(range(5 * profile.seeds), arms=2 * RIGHT, right=RIGHT)
    task = _copies(bandit)
    before = Policy.of(bandit.tree, bandit.start).response_logp[:, 0]
    likely = before.masked_fill(~bandit.correct[:, 0], -torch.inf)
    order = likely.argsort(-1, descending=True)[:, :RIGHT]
    rows: list[tuple[str, int, int, float, float]] = []
    for name, side in ARMS.items():
        trainer = Trainer(task, side.recipe, steps=1, learning_rate=RATE * COPIES)
        trainer.step()
        change = (trainer.policy.response_logp - before[:, None]).mean(1).gather(-1, order)
        chances = before.exp().gather(-1, order)
        for seed, pairs in enumerate(torch.stack([chances, change], -1).tolist()):
            rows += [(name, seed, rank + 1, *pair) for rank, pair in enumerate(pairs)]
    return Table.of(("arm", "seed", "rank", "chance", "change"), rows)


def _probe(task: Task, policy: Policy) -> Mapping[str, Tensor]:
    """pass@256 on held-out prompts; probability of right responses that were rare at the start.

    Rare: of the right responses to a trained prompt the half that was less likely.
    """
    success = policy.mean(task.correct.double())[:, task.training :]
    right = task.correct[:, task.trained]
    start = trained(task, Policy.of(task.tree, task.logits(task.start)))
    rank = start.response_logp.masked_fill(~right, torch.inf).argsort(-1).argsort(-1)
    rare = right & (rank < right.sum(-1, keepdim=True) // 2)
    return {
        LARGE: pass_at_k(success, (256,)).mean((1, 2)),
        "rare": trained(task, policy).mean(rare.double()).mean(-1),
    }


def measure(profile: Profile) -> Tables:
    """One step on a bandit, averaged over groups; then training on prompts that interfere."""
    steps = profile.pick(quick=12, full=40)
    task = prompt_set(
        range(profile.seeds), held_out=16, features=8, vocab=8, max_length=2, easiest=0.7
    )
    tables = compare(
        task,
        ARMS,
        steps=steps,
        learning_rate=10.0,
        measures=("reward", "rare", LARGE, "entropy"),
        points=20,
        runs=True,
        probe=_probe,
    )
    return {**tables, "ranks": _ranks(profile)}


def _change(tables: Tables, name: str, ranks: Sequence[int]) -> list[float]:
    """Of each seed: mean change of ln π of the right arms of these ranks."""
    rows = tables["ranks"].where(arm=name)
    columns = [rows.numbers("change", rank=rank) for rank in ranks]
    return [sum(row) / len(row) for row in zip(*columns, strict=True)]


def judge(tables: Tables) -> Sequence[Interval]:
    """The bias by rank, its cures, then what becomes of rare right answers in training."""
    likely, rare = range(1, RIGHT // 2 + 1), range(RIGHT // 2 + 1, RIGHT + 1)
    finals = tables["finals"].where(arm=GRPO, measure=LARGE)
    return [
        paired(_change(tables, GRPO, rare), _change(tables, GRPO, likely)),
        interval(_change(tables, GRPO, rare)),
        paired(_change(tables, UNLIKELY, rare), _change(tables, GRPO, rare)),
        paired(_change(tables, GRPO_MORE, rare), _change(tables, GRPO, rare)),
        difference(tables, "rare", UNLIKELY, GRPO),
        difference_at(tables, "rare", UNLIKELY, GRPO, level=LEVEL),
        paired(finals.numbers("value"), finals.numbers("start")),
        difference(tables, LARGE, UNLIKELY, GRPO),
        difference_at(tables, LARGE, UNLIKELY, GRPO, level=LEVEL),
    ]


def plot(tables: Tables) -> Axes:
    """The change by rank, then training."""
    labels = {"rare": "probability of rare right responses", LARGE: "pass@256 on held-out prompts"}
    first = curves(tables, ("entropy", "reward", "rare", LARGE), labels=labels)
    first.clear()
    for index, name in enumerate(ARMS):
        rows = tables["ranks"].where(arm=name)
        ranks = range(1, RIGHT + 1)
        found = [interval(rows.numbers("change", rank=rank)) for rank in ranks]
        middle, half = [one.value for one in found], [one.high - one.value for one in found]
        first.errorbar(ranks, middle, half, marker="o", markersize=4, label=name, **style(index))
    first.axhline(0, color="0.3", linewidth=1)
    first.set(xlabel="rank of the right answer, 1 the likeliest", ylabel="change of ln π, nats")
    first.grid(alpha=0.25, linewidth=0.6)
    first.legend(frameon=False, fontsize="small")
    return first


EXPERIMENT = Experiment(
    name="unlikeliness",
    title="Rank bias and rewarding the unlikely",
    claim="GRPO reinforces right answers that are likely and not rare ones, so that pass@k falls "
    "at large k; rewarding the unlikely, or more epochs on each rollout, lifts the rare ones.",
    paper="Rewarding the Unlikely, arXiv 2506.02355",
    effect="In one step, averaged over groups, ln π of the rarer half of the right answers changes "
    "by less than that of the likelier half under GRPO, and falls; it changes by 0.01 nats more "
    "with the unlikeliness reward, and with 4 epochs instead of 1. In training rare right "
    f"responses end with 0.01 more probability, also at a reward of {LEVEL:g}; GRPO's pass@256 "
    "on held-out prompts falls below the untrained policy's and that with the unlikeliness reward "
    "is higher, also at the same reward.",
    test=f"Means over {COPIES} groups of 32, for five times as many random bandits as seeds; exact "
    "measures in training; paired differences, Student's 95 % interval.",
    criteria=(
        Criterion("change of ln π in a step of GRPO, rare − likely right answers, nats", below=0.0),
        Criterion("change of ln π in a step of GRPO, rare right answers, nats", below=0.0),
        Criterion("change of rare right ones, unlikeliness − GRPO, nats", above=0.01),
        Criterion("change of rare right ones, GRPO with 4 epochs − 1, nats", above=0.01),
        Criterion("final probability of rare right responses, unlikeliness − GRPO", above=0.01),
        Criterion("that probability at the same reward, unlikeliness − GRPO", above=0.01),
        Criterion("held-out pass@256, GRPO − untrained", below=0.0),
        Criterion("held-out pass@256, unlikeliness − GRPO", above=0.0),
        Criterion("that pass@256 at the same reward, unlikeliness − GRPO", above=0.0),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="Left: one training step on bandits of 8 right arms in 16, so long that the clip binds "
    "after the first epoch. A right answer falls where its share of the step is less than what "
    "the other right ones take. The rest: prompts that share parameters, without a KL penalty.",
)
