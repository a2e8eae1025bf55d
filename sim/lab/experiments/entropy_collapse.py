"""Entropy collapses under policy gradient, GRPO and PPO."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from sim.lab.compare import arm, compare, lost
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves
from sim.lab.statistics import Interval
from sim.lab.tables import Tables
from sim.lab.tasks import token_tree

ARMS = {
    # One optimizer step per rollout and the mean as baseline: REINFORCE. Without the division by
    # the standard deviation its gradients are small.
    "policy gradient": arm("dr_grpo", minibatches=1, train={"learning_rate": 160.0}),
    "GRPO": arm("grpo"),
    # Exact values and GAE, without VAPO's clip-higher, likelihood term and adaptive decay.
    "PPO": arm("vapo", clip_high=0.2, nll_coef=0.0, decay=0.95, minibatches=4),
}


def measure(profile: Profile) -> Tables:
    """Each method on the same token trees."""
    task = token_tree(range(profile.seeds))
    return compare(task, ARMS, steps=profile.pick(quick=30, full=120), learning_rate=20.0)


def judge(tables: Tables) -> Sequence[Interval]:
    """The share of its entropy that each method loses."""
    return [lost(tables, name) for name in ARMS]


def plot(tables: Tables) -> Axes:
    """Entropy and reward along training."""
    return curves(tables, ("entropy", "reward", "kl"))


EXPERIMENT = Experiment(
    name="entropy_collapse",
    title="Entropy collapse",
    claim="Policy gradient, GRPO and PPO without countermeasures lose nearly all their entropy.",
    paper="DAPO, arXiv 2503.14476; The Entropy Mechanism, arXiv 2505.22617",
    effect="At least half of the token entropy at the start is lost by the end of training.",
    test="Mean over seeds of 1 − H_end/H_start, Student's 95 % interval.",
    criteria=tuple(Criterion(f"token entropy lost by {name}, share", above=0.5) for name in ARMS),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="Means over seeds, 95 % intervals; trees of 8 prompts, 4 tokens of 4 choices.",
)
