"""Weighing the tokens of positive advantage: fixed, by stages, and by the entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from sim.lab.compare import AT_LEVEL, arm, compare, difference
from sim.lab.exact import mean_token_entropy
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves, rule
from sim.lab.harness import Trainer
from sim.lab.slopes import slope
from sim.lab.statistics import Interval, interval
from sim.lab.tables import Table, Tables
from sim.lab.tasks import prompt_set

LEVEL, THRESHOLD = 0.6, 0.2
EVERY = 6
"""steps from one pair of slopes to the next"""
STEPS: dict[str, Any] = {"minibatches": 1}
FIXED = {
    f"λ = {weight:g}": arm("positive_reweight", delta=0.0, initial=weight, **STEPS)
    for weight in (1.0, 0.3, 0.0)
}
PLAIN, SOME, NONE = FIXED
GUIDED, STAGES = f"guided by H, δ = {THRESHOLD:g}", "0, then up to 1"
ARMS = {
    **FIXED,
    GUIDED: arm("positive_reweight", threshold=THRESHOLD, delta=0.1, **STEPS),
    STAGES: arm("positive_reweight", schedule="stage", **STEPS),
}


def measure(profile: Profile) -> Tables:
    """Prompts that interfere, so that entropy need not vanish; and both halves of the slope."""
    task = prompt_set(range(profile.seeds), prompts=16, held_out=0, features=4)
    steps = profile.pick(quick=18, full=60)
    tables = compare(task, ARMS, steps=steps, learning_rate=40.0, level=LEVEL, runs=True)
    trainer = Trainer(task, FIXED[PLAIN].recipe, steps=steps, learning_rate=40.0)
    slopes = []
    for at in range(steps):
        trainer.step()
        if at % EVERY:
            continue
        now = trainer.policy
        advantages = task.rewards - now.mean(task.rewards)[..., None]
        halves = [
            slope(task, part, mean_token_entropy, trainer.parameters)
            for part in (advantages.clamp(min=0), advantages.clamp(max=0))
        ]
        rows = zip(*(half.tolist() for half in halves), strict=True)
        slopes += [(trainer.done, n, *row) for n, row in enumerate(rows)]
    return {**tables, "slopes": Table.of(("step", "seed", "positive", "negative"), slopes)}


def _distance(tables: Tables) -> list[float]:
    """|H − δ| under the guided schedule, mean over the last quarter of each run."""
    steps, runs = (tables["runs"].each_seed(c, arm=GUIDED) for c in ("step", "entropy"))
    late = [k for k, step in enumerate(steps[0]) if step >= 0.75 * max(steps[0])]
    return [sum(abs(run[k] - THRESHOLD) for k in late) / len(late) for run in runs]


def _slopes(tables: Tables, half: str) -> list[float]:
    """For each seed the mean along the run."""
    return [sum(values) / len(values) for values in tables["slopes"].each_seed(half)]


def judge(tables: Tables) -> Sequence[Interval]:
    """What each half of the signal does; fixed weights; the schedule that looks at the entropy."""
    return [
        interval(_slopes(tables, "positive")),
        interval(_slopes(tables, "negative")),
        difference(tables, "entropy", NONE, PLAIN),
        difference(tables, AT_LEVEL, NONE, PLAIN),
        interval(_distance(tables)),
        difference(tables, "entropy", GUIDED, PLAIN),
        difference(tables, AT_LEVEL, GUIDED, PLAIN),
        difference(tables, "reward", GUIDED, PLAIN),
    ]


def plot(tables: Tables) -> Axes:
    """Entropy with δ, reward and distance along training."""
    axis = curves(tables, ("entropy", "reward", "kl"))
    rule(axis, THRESHOLD, linestyle=":")
    return axis


EXPERIMENT = Experiment(
    name="positive_schedules",
    title="Schedules of the weight of positive tokens",
    claim="Entropy falls through tokens of positive advantage, so that their weight λ in the loss "
    "controls it: without them it stays up, and moving λ by the entropy holds it near δ.",
    paper="Revisiting Entropy, arXiv 2511.05993",
    effect="Exactly, along training with λ = 1: positive tokens lower the entropy, negative ones "
    "raise it. λ = 0 ends with 0.1 nats more than λ = 1, and has 0.02 more at a reward of "
    f"{LEVEL:g}. Guided by the entropy, λ keeps it within 0.05 nats of δ over the last quarter, "
    "leaves 0.02 nats more than λ = 1 at the end and at the same reward, and costs at most 0.02 of "
    "the reward.",
    test="Slopes by enumeration; else paired differences over seeds; Student's 95 % interval.",
    criteria=(
        Criterion("entropy per step by positive tokens, nats per unit length", below=0.0),
        Criterion("entropy per step by negative tokens, nats per unit length", above=0.0),
        Criterion("final entropy, λ = 0 − λ = 1, nats", above=0.1),
        Criterion("entropy at the same reward, λ = 0 − λ = 1, nats", above=0.02),
        Criterion("|H − δ| over the last quarter, guided, nats", below=0.05),
        Criterion("final entropy, guided − λ = 1, nats", above=0.02),
        Criterion("entropy at the same reward, guided − λ = 1, nats", above=0.02),
        Criterion("final reward, guided − λ = 1", above=-0.02),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="With rewards of 0 and 1 the two halves of a prompt's expected step are (1 − p)·∇p and "
    "p·∇p, p its success rate: they point the same way. λ is then a learning rate of 1 − (1 − λ)"
    "(1 − p) for each prompt, and cannot turn the entropy round. Dotted: δ.",
)
