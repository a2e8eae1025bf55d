"""Clip-higher, and the other bound: what each does to the entropy."""

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
PLAIN, HIGHER, LOWER = "0.2 / 0.2", "0.2 / 0.28", "0.28 / 0.2"
ARMS = {
    PLAIN: arm("grpo", epochs=4),
    HIGHER: arm("grpo", epochs=4, clip_high=0.28),
    LOWER: arm("grpo", epochs=4, clip_low=0.28),
}


def measure(profile: Profile) -> Tables:
    """GRPO, sixteen optimizer steps per rollout, long enough that the bounds bind."""
    task = token_tree(range(profile.seeds), prompts=4)
    return compare(
        task,
        ARMS,
        steps=profile.pick(quick=15, full=80),
        learning_rate=10.0,
        measures=("entropy", "reward", "clip_low", "clip_high"),
        level=LEVEL,
    )


def judge(tables: Tables) -> Sequence[Interval]:
    """Both bounds against the symmetric clip."""
    return [
        difference(tables, "entropy", HIGHER, PLAIN),
        difference(tables, AT_LEVEL, HIGHER, PLAIN),
        difference(tables, AT_LEVEL, LOWER, PLAIN),
    ]


def plot(tables: Tables) -> Axes:
    """Entropy and reward, and how often each bound binds."""
    return curves(tables, ("entropy", "reward", "clip_low", "clip_high"))


EXPERIMENT = Experiment(
    name="clip_thresholds",
    title="Clip-higher",
    claim="Raising the upper bound on the ratio to 1.28 leaves room for rare tokens and keeps "
    "entropy up; lowering the lower bound to 0.72 does the opposite.",
    paper="DAPO, arXiv 2503.14476; Revisiting Entropy, arXiv 2511.05993",
    effect="Clip-higher ends with more entropy than the symmetric clip, and has more, by 0.01 nats "
    f"at least, when the reward reaches {LEVEL:g}; the wider lower bound has less there.",
    test="Paired differences over seeds, Student's 95 % interval.",
    criteria=(
        Criterion("final entropy, 0.28 − 0.2 above, nats", above=0.0),
        Criterion("entropy at the same reward, 0.28 − 0.2 above, nats", above=0.01),
        Criterion("entropy at the same reward, 0.28 − 0.2 below, nats", below=-0.01),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="clip_low / clip_high. The lower bound binds the more often here: tokens of falling "
    "probability leave the range sooner than rising ones.",
)
