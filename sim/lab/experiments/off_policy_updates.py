"""More optimizer steps on each rollout bring the entropy down faster."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from sim.lab.compare import AT_LEVEL, arm, compare, difference
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves
from sim.lab.statistics import Interval
from sim.lab.tables import Tables
from sim.lab.tasks import token_tree

LEVEL = 0.6
ON, OFF, SMALL = "1 step per rollout", "8 steps per rollout", "8 steps, an eighth as long"
ARMS = {
    ON: arm("grpo", minibatches=1),
    OFF: arm("grpo", minibatches=4, epochs=2),
    SMALL: arm("grpo", minibatches=4, epochs=2, train={"learning_rate": 5.0}),
}


def measure(profile: Profile) -> Tables:
    """GRPO with one and with eight optimizer steps per rollout."""
    task = token_tree(range(profile.seeds))
    steps = profile.pick(quick=30, full=100)
    measures = ("entropy", "reward", "clip_low")
    return compare(task, ARMS, steps=steps, learning_rate=40.0, level=LEVEL, measures=measures)


def judge(tables: Tables) -> Sequence[Interval]:
    """Differences of entropy at the same rollouts, and at the same reward."""
    return [
        difference(tables, "entropy", OFF, ON),
        difference(tables, AT_LEVEL, OFF, ON),
        difference(tables, AT_LEVEL, SMALL, ON),
    ]


def plot(tables: Tables) -> Axes:
    """Entropy and reward along training."""
    return curves(tables, ("entropy", "reward", "clip_low"))


EXPERIMENT = Experiment(
    name="off_policy_updates",
    title="Off-policy updates drive the collapse",
    claim="The more optimizer steps are made on each rollout, the faster the entropy collapses.",
    paper="Revisiting Entropy, arXiv 2511.05993; OPO, arXiv 2505.23585",
    effect="Lower entropy after the same number of rollouts; and, since more steps also learn "
    f"more, lower at the same reward of {LEVEL:g}, by 0.02 nats at least, with steps of the same "
    "length and with steps whose lengths add up to the same.",
    test="Paired differences over seeds, Student's 95 % interval.",
    criteria=(
        Criterion("entropy, 8 steps − 1 step, same rollouts, nats", below=-0.02),
        Criterion("entropy, 8 steps − 1 step, same reward, nats", below=-0.02),
        Criterion("entropy, 8 steps an eighth as long − 1 step, same reward, nats", below=-0.02),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="What the paper compares is the first criterion; the others ask whether it is the age "
    "of the data that costs entropy, or only the progress made.",
)
