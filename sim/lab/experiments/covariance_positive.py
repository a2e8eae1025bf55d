"""The covariance between likelihood and advantage stays positive while training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from torch import Tensor

from entropy_ext import recipes
from sim.lab.compare import tabulate
from sim.lab.exact import Policy, action_values, covariance, state_values
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves
from sim.lab.statistics import Interval, exactly, interval
from sim.lab.tables import Table, Tables
from sim.lab.task import Task
from sim.lab.tasks import token_tree
from sim.lab.training import train

FORMS = {"policy_gradient": "Cov(ln π, πA)", "natural": "Cov(ln π, A)"}


def covariances(task: Task, policy: Policy) -> Mapping[str, Tensor]:
    """Both theorems' covariances of the exact advantage, a mean over the tokens written. [N]"""
    values = state_values(policy, task.rewards)
    advantages = action_values(policy, task.rewards) - values[..., None]
    forms = {"policy_gradient": policy.probs * advantages, "natural": advantages}
    tokens = policy.visits.sum((-2, -1))
    return {
        name: (policy.visits * covariance(policy, policy.logp, direction)).sum((-2, -1)) / tokens
        for name, direction in forms.items()
    }


def measure(profile: Profile) -> Tables:
    """GRPO on token trees whose right answers have nothing to do with the start."""
    task = token_tree(range(profile.seeds))
    steps = profile.pick(quick=30, full=100)
    history = train(
        task,
        lambda: recipes.get("grpo"),
        steps=steps,
        learning_rate=20.0,
        every=max(1, steps // 30),
        probe=covariances,
    )
    shares = []
    for name in FORMS:
        # The start is random, so that its covariance has either sign.
        along = history[name][1:]
        columns = zip(
            task.seeds.tolist(),
            (along > 0).double().mean(0).tolist(),
            along.mean(0).tolist(),
            strict=True,
        )
        shares += [(name, *row) for row in columns]
    return {
        **tabulate({"GRPO": history}, task.seeds, ("entropy", *FORMS)),
        "signs": Table.of(("form", "seed", "share_positive", "mean"), shares),
    }


def judge(tables: Tables) -> Sequence[Interval]:
    """How often positive, how large, and the smallest lower end along training."""
    found = []
    for name in FORMS:
        found.append(interval(tables["signs"].numbers("share_positive", form=name)))
        lows = tables["curves"].numbers("low", measure=name)[1:]
        found.append(exactly(min(lows)))
    return found


def plot(tables: Tables) -> Axes:
    """Both covariances along training."""
    labels = {name: f"mean {form} over tokens" for name, form in FORMS.items()}
    return curves(tables, (*FORMS, "entropy"), labels=labels)


EXPERIMENT = Experiment(
    name="covariance_positive",
    title="The covariance stays positive",
    claim="While a policy is trained, the covariance of log-probability and advantage stays "
    "positive, so that entropy falls all the way.",
    paper="The Entropy Mechanism, arXiv 2505.22617",
    effect="The exact covariance, a mean over the tokens written, is positive at nine in ten of "
    "all points after the first steps; its mean over seeds is positive at every one of them.",
    test="Share of points along each run, Student's 95 % interval over seeds; pointwise intervals.",
    criteria=tuple(
        criterion
        for form in FORMS.values()
        for criterion in (
            Criterion(f"{form} > 0, share of points", above=0.9),
            Criterion(f"{form}: least lower end along training", above=0.0),
        )
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="At the start right answers have nothing to do with likely ones, and the covariance is "
    "as often negative; training itself makes it positive.",
)
