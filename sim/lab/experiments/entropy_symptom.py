"""Entropy as a symptom: a checker that errs, and a reward that can be exploited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes

from sim.lab.compare import AT_LEVEL, arm, compare, difference, difference_at, gained
from sim.lab.draws import uniforms
from sim.lab.exact import Policy
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves
from sim.lab.statistics import Interval
from sim.lab.tables import Tables, joined
from sim.lab.task import Task
from sim.lab.tasks import prompt_set

SHARE, FLIPS = 0.1, 35
CLEAN, NOISE = "clean", "a tenth of the verdicts flipped"
# Of batches this small the paper's 0.2 % are one token.
METHODS = {
    "GRPO": arm("grpo", aggregation="token-mean"),
    "KL-Cov": arm("kl_cov", fraction=0.05, minibatches=4),
    "entropy-neutral": arm("entropy_neutral"),
}
EXPLOITS = {"paid alike": (1.0, 0.7), "paid double": (2.0, 1.1)}
"""what the wrong response earns, and the mean reward at which methods are compared"""


def flipped(task: Task, share: float) -> Task:
    """The checker's verdict on a share of the responses to each prompt is wrong, for good."""
    u = uniforms(task.seeds, FLIPS, shape=tuple(task.correct.shape[1:]))
    return replace(task, payoff=((u < share) ^ task.correct).double())


def exploitable(task: Task, paid: float) -> Task:
    """The likeliest wrong response to each prompt takes the checker in."""
    policy = Policy.of(task.tree, task.logits(task.start))
    best = (policy.responses * ~task.correct).argmax(-1, keepdim=True)
    return replace(task, payoff=task.correct.double().scatter(-1, best, paid))


def measure(profile: Profile) -> Tables:
    """The same prompts and starts, four checkers; and control of entropy under the worst two."""
    task = prompt_set(range(profile.seeds), easiest=0.5, hardest=0.05)
    grpo = METHODS["GRPO"]
    runs = [(task, {CLEAN: grpo}, 1.0), (flipped(task, SHARE), {NOISE: grpo}, 1.0)]
    for name, (paid, level) in EXPLOITS.items():
        arms = {f"{name}, {method}": side for method, side in METHODS.items()}
        runs.append((exploitable(task, paid), arms, level))
    return joined(
        compare(
            which,
            arms,
            steps=profile.pick(quick=12, full=50),
            learning_rate=12.0,
            points=20,
            measures=("entropy", "reward", "pass@1"),
            level=level,
            runs=True,
        )
        for which, arms, level in runs
    )


def judge(tables: Tables) -> Sequence[Interval]:
    """What entropy shows, what it does not, and whether control of it helps."""
    found = [
        difference(tables, "entropy", NOISE, CLEAN),
        difference(tables, "pass@1", NOISE, CLEAN),
    ]
    for name, (_, level) in EXPLOITS.items():
        grpo, cov, neutral = (f"{name}, {method}" for method in METHODS)
        found += [
            difference(tables, "entropy", grpo, CLEAN),
            difference(tables, "pass@1", grpo, CLEAN),
            difference_at(tables, "pass@1", cov, grpo, level=level),
            difference_at(tables, "pass@1", neutral, grpo, level=level),
            difference(tables, AT_LEVEL, neutral, grpo),
        ]
    return [*found, gained(tables, grpo, "reward"), gained(tables, grpo, "pass@1")]


def plot(tables: Tables) -> Axes:
    """Entropy and paid reward look alike; the truth does not."""
    labels = {"reward": "reward that is paid", "pass@1": "right answers, share"}
    arms = [CLEAN, NOISE, "paid alike, GRPO", *(f"paid double, {method}" for method in METHODS)]
    axis = curves(tables, ("entropy", "reward", "pass@1"), labels=labels, arms=arms)
    # Room for the legend.
    axis.set_ylim(0, 1.5)
    return axis


EXPERIMENT = Experiment(
    name="entropy_symptom",
    title="Entropy as a symptom",
    claim="Entropy falls alike whether the reward is right or wrong, so that it does not tell; and "
    "keeping it up does not repair what a wrong reward does.",
    paper="the survey's critical reflection",
    effect="With a tenth of the verdicts flipped, or with a wrong response to each prompt paid as "
    "much as right ones or twice as much, the final entropy is at most 0.1 nats above that of the "
    "clean reward, while 0.1 of the right answers are lost at least. At the same paid reward "
    "neither KL-Cov nor the entropy-neutral update, which then has 0.03 nats more, has 0.05 more "
    "right answers than GRPO. Paid double, the reward rises by 0.2 while right answers become "
    "fewer by 0.05.",
    test="Paired differences over seeds, Student's 95 % interval; the prompts share parameters.",
    criteria=(
        Criterion("final entropy, flipped − clean, nats", below=0.1),
        Criterion("final share of right answers, flipped − clean", below=-0.1),
        *(
            criterion
            for name in EXPLOITS
            for criterion in (
                Criterion(f"final entropy, {name} − clean, nats", below=0.1),
                Criterion(f"final share of right answers, {name} − clean", below=-0.1),
                Criterion(f"right answers at the same reward, KL-Cov − GRPO, {name}", below=0.05),
                Criterion(f"right answers at the same reward, neutral − GRPO, {name}", below=0.05),
                Criterion(f"entropy at the same reward, neutral − GRPO, nats, {name}", above=0.03),
            )
        ),
        Criterion("reward, end − start, paid double", above=0.2),
        Criterion("share of right answers, end − start, paid double", below=-0.05),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="GRPO unless another is named. Paid: the likeliest wrong response to each prompt "
    "earns as much as a right one, or twice that.",
    revisions=(
        "2026-11-23, on other seeds than the report's, no bound changed: the paid response from "
        "one for all prompts, which began too rare to be found, to the likeliest wrong one of "
        "each, paid alike as well as double.",
    ),
)
