"""GRPO's rank bias, and what rewarding the unlikely does about it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from sim.lab.compare import Arm, arm, compare, difference, difference_at, gained
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves, error_bars, legend, rule, style
from sim.lab.probes import held_out_pass, rare_right
from sim.lab.ranks import mean_change, rank_table
from sim.lab.statistics import Interval, interval, paired
from sim.lab.tables import Tables
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
        probe=lambda task, policy: {
            **held_out_pass(task, policy, (256,)),
            "rare": rare_right(task, policy),
        },
    )
    bandit = random_bandit(range(5 * profile.seeds), arms=2 * RIGHT, right=RIGHT)
    ranks = rank_table(bandit, ARMS, ranks=RIGHT, copies=COPIES, learning_rate=RATE)
    return {**tables, "ranks": ranks}


def judge(tables: Tables) -> Sequence[Interval]:
    """The bias by rank, its cures, then what becomes of rare right answers in training."""
    half, changes = RIGHT // 2, tables["ranks"]
    likely = mean_change(changes, GRPO, range(1, half + 1))
    rare = {name: mean_change(changes, name, range(half + 1, RIGHT + 1)) for name in ARMS}
    return [
        paired(rare[GRPO], likely),
        interval(rare[GRPO]),
        paired(rare[UNLIKELY], rare[GRPO]),
        paired(rare[GRPO_MORE], rare[GRPO]),
        difference(tables, "rare", UNLIKELY, GRPO),
        difference_at(tables, "rare", UNLIKELY, GRPO, level=LEVEL),
        gained(tables, GRPO, LARGE),
        difference(tables, LARGE, UNLIKELY, GRPO),
        difference_at(tables, LARGE, UNLIKELY, GRPO, level=LEVEL),
    ]


def plot(tables: Tables) -> Axes:
    """The change by rank, then training."""
    labels = {"rare": "probability of rare right responses", LARGE: "pass@256 on held-out prompts"}
    first = curves(tables, (None, "reward", "rare", LARGE), labels=labels)
    ranks = range(1, RIGHT + 1)
    for index, name in enumerate(ARMS):
        rows = tables["ranks"].where(arm=name)
        found = [interval(rows.numbers("change", rank=rank)) for rank in ranks]
        error_bars(first, ranks, found, marker="o", markersize=4, label=name, **style(index))
    rule(first, 0)
    first.set(xlabel="rank of the right answer, 1 the likeliest", ylabel="change of ln π, nats")
    legend(first)
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
