"""The plain entropy bonus and the plain KL penalty: what the coefficient decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from sim.lab.compare import Arm, arm, compare, difference, ends, gained
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import error_bars, legend, style
from sim.lab.statistics import Interval, interval, paired
from sim.lab.sweep import cost_of_half, decades_of_rise
from sim.lab.tables import Tables
from sim.lab.task import Task
from sim.lab.tasks import prompt_set, token_tree
from sim.plots import panels

COEFFICIENTS = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
DELTAS, TARGET = (0.1, 0.4), 0.4
PENALTY = "KL penalty, 0.1"
ON_POLICY: dict[str, Any] = {"minibatches": 1, "aggregation": "token-mean"}
BONUS = {f"bonus {c:g}": arm("grpo", entropy_coef=c, **ON_POLICY) for c in COEFFICIENTS}
NONE, SMALL, _, QUARTER, _, LARGE = BONUS
CONTROLLED = {
    f"controller, delta {delta:g}": arm(
        "skywork_or1", target=TARGET, delta=delta, maximum=2.0, gate="current_le", signal="entropy"
    )
    for delta in DELTAS
}
SLOW, FAST = CONTROLLED
ARMS: dict[str, Mapping[str, Arm]] = {
    "token tree": {**BONUS, **CONTROLLED, PENALTY: arm("grpo", kl_coef=0.1, **ON_POLICY)},
    "prompt set": BONUS,
}
TASKS: dict[str, Callable[[Sequence[int]], Task]] = {
    "token tree": lambda seeds: token_tree(seeds, prompts=4),
    "prompt set": lambda seeds: prompt_set(seeds, held_out=0, features=4),
}


def measure(profile: Profile) -> Tables:
    """A sweep of the coefficient on both tasks; the controller and the KL penalty on one."""
    steps = profile.pick(quick=16, full=60)
    return {
        name: compare(
            build(range(profile.seeds)),
            ARMS[name],
            steps=steps,
            learning_rate=40.0,
            measures=("entropy", "reward"),
            points=1,
        )["finals"]
        for name, build in TASKS.items()
    }


def _sweep(tables: Tables, task: str, measure: str) -> list[list[float]]:
    """For each coefficient the value at the end of each seed."""
    return [ends({"finals": tables[task]}, name, measure) for name in BONUS]


def judge(tables: Tables) -> Sequence[Interval]:
    """Too small, too large, how little lies between, what it costs; then the two others."""
    tree = {"finals": tables["token tree"]}
    found = [difference(tree, "entropy", SMALL, NONE), gained(tree, LARGE, "entropy")]
    for task in TASKS:
        sweeps = (_sweep(tables, task, measure) for measure in ("entropy", "reward"))
        entropies, rewards = (list(zip(*sweep, strict=True)) for sweep in sweeps)
        found.append(interval([decades_of_rise(COEFFICIENTS, seed) for seed in entropies]))
        found.append(interval(list(map(cost_of_half, entropies, rewards))))
    moved = []
    for pair in ((QUARTER, LARGE), (SLOW, FAST)):
        before, after = (ends(tree, name, "entropy") for name in pair)
        moved.append([abs(b - a) for a, b in zip(before, after, strict=True)])
    return [*found, paired(*moved), difference(tree, "reward", PENALTY, NONE)]


def plot(tables: Tables) -> Axes:
    """Final entropy and reward against the coefficient, on both tasks."""
    axes = panels(2, width=5.4, height=3.8)
    for axis, measure in zip(axes, ("entropy", "reward"), strict=True):
        for index, task in enumerate(TASKS):
            found, look = list(map(interval, _sweep(tables, task, measure))), style(index)
            error_bars(axis, COEFFICIENTS, found, marker="os"[index], label=task, **look)
            start = interval(tables[task].numbers("start", arm=NONE, measure=measure))
            axis.axhline(start.value, color=look["color"], linestyle=":", linewidth=1)
        axis.set_xscale("symlog", linthresh=COEFFICIENTS[1])
        axis.set(xlim=(-0.002, 1.3), xlabel="coefficient of the entropy bonus")
    axes[0].set_ylabel("token entropy at the end, nats")
    axes[1].set_ylabel("expected reward at the end")
    legend(axes[0])
    return axes[0]


EXPERIMENT = Experiment(
    name="entropy_bonus",
    title="The plain entropy bonus",
    claim="A fixed entropy bonus is touchy: a small coefficient does nothing, a large one makes "
    "the entropy explode, the range between is narrow, and none does better than no bonus; nor "
    "does a KL penalty. A coefficient that follows the entropy needs no such care.",
    paper="The Entropy Mechanism, arXiv 2505.22617; Skywork-OR1, arXiv 2505.22312",
    effect="0.01 moves the final entropy by less than 0.02 nats, 1 ends above the start. The "
    "middle half of the rise between no bonus and 1 takes less than half a decade, and where half "
    "of it is had 0.05 of the reward is lost, on both tasks. A fourfold coefficient (0.25 to 1) "
    "moves the entropy by 0.3 nats more than a fourfold step of the controller (0.1 to 0.4). A KL "
    "penalty of 0.1 costs 0.02 of the reward.",
    test="Interpolation over the coefficient for each seed; paired differences; Student's 95 % "
    "interval.",
    criteria=(
        Criterion("final entropy, bonus 0.01 − none, nats", above=-0.02, below=0.02),
        Criterion("entropy under bonus 1, end − start, nats", above=0.0),
        *(
            criterion
            for task in TASKS
            for criterion in (
                Criterion(f"decades for the middle half of the rise, {task}", below=0.5),
                Criterion(f"reward at half of the rise − with no bonus, {task}", below=-0.05),
            )
        ),
        Criterion("|ΔH| by a fourfold coefficient − by a fourfold delta, nats", above=0.3),
        Criterion("final reward, KL penalty − none", below=-0.02),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="Dotted: at the start. GRPO's advantages are divided by the spread of a group's "
    "rewards, which is what the coefficient competes with.",
)
