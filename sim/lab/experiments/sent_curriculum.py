"""SENT: prompts in the order of their semantic entropy, and a hold on tokens of low entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from entropy_ext.recipes import Sampling, SemanticCurriculum
from sim.lab.compare import AT_LEVEL, Arm, arm, compare, difference
from sim.lab.curricula import EveryOtherFirst, HighFirst, difficulty
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import against, legend, lines
from sim.lab.statistics import Interval, interval, rank_correlation
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.plots import panels

PROMPTS, LEVEL = 16, 0.8
GROUPS = Sampling(group_size=8)
STEPS: dict[str, Any] = {"minibatches": 2, "sampling": GROUPS, "aggregation": "token-mean"}
# Of the tokens of a mini-batch the released share of 0.0002 would be one.
HOLD: dict[str, Any] = {"kl_coef": 0.0, "cov_fraction": 0.05, "sampling": GROUPS}
LOW, HIGH, MIXED, ALL = "low first", "high first", "every other first", "all, always"
FREE, CODE, TEXT = "low first, no clip", "SENT, code", "SENT, text"
CURRICULA, TOKENS = (LOW, HIGH, MIXED, ALL), (FREE, CODE, TEXT)
ARMS = {
    LOW: Arm(lambda: SemanticCurriculum(**STEPS), {}),
    HIGH: Arm(lambda: HighFirst(**STEPS), {}),
    MIXED: Arm(lambda: EveryOtherFirst(**STEPS), {}),
    ALL: Arm(lambda: SemanticCurriculum(stages=1, **STEPS), {}),
    FREE: arm("sent", **{**HOLD, "hold_coef": 0.0}),
    CODE: arm("sent", **HOLD),
    TEXT: arm("sent", hold_rest=1.0, **HOLD),
}


def measure(profile: Profile) -> Tables:
    """From almost solved to solved once in fifty; half of the prompts in each step."""
    task = prompt_set(
        range(profile.seeds),
        prompts=PROMPTS,
        held_out=8,
        features=8,
        easiest=0.95,
        hardest=0.02,
    )
    return {
        "prompts": difficulty(task),
        **compare(
            task,
            ARMS,
            steps=profile.pick(quick=20, full=60),
            learning_rate=20.0,
            measures=("entropy", "reward", "held_out"),
            groups=PROMPTS // 2,
            level=LEVEL,
        ),
    }


def judge(tables: Tables) -> Sequence[Interval]:
    """Whether the order is one of difficulty; what it does; what the hold does."""
    sides = (tables["prompts"].each_seed(c) for c in ("semantic_entropy", "success"))
    return [
        interval(list(map(rank_correlation, *sides))),
        *(difference(tables, "reward", LOW, other) for other in (HIGH, MIXED, ALL)),
        difference(tables, "entropy", LOW, ALL),
        difference(tables, AT_LEVEL, LOW, ALL),
        *(difference(tables, AT_LEVEL, hold, FREE) for hold in (CODE, TEXT)),
        difference(tables, "reward", TEXT, FREE),
    ]


def plot(tables: Tables) -> Axes:
    """Reward and entropy under each order; entropy against reward with the hold and without."""
    reward, entropy, hold = panels(3, width=4.8, height=3.8)
    lines(reward, tables, "reward", arms=CURRICULA)
    lines(entropy, tables, "entropy", arms=CURRICULA)
    against(hold, tables, "reward", "entropy", arms=TOKENS)
    legend(reward, hold)
    return reward


EXPERIMENT = Experiment(
    name="sent_curriculum",
    title="SENT's curriculum and hold",
    claim="Prompts of low semantic entropy are the easy ones; learnt first they make for a better "
    "policy with more entropy, and holding tokens of low entropy keeps more of it.",
    paper="Efficient RL with Semantic and Token Entropy, arXiv 2512.04359",
    effect="Semantic entropy falls with the chance of a right answer (Spearman below −0.3). Low "
    "first ends with 0.02 more reward than high first, than halves of equal difficulty, and than "
    f"all prompts at random; with 0.02 nats more than the last, also at a reward of {LEVEL:g}. At "
    "that reward the hold, as released and as in the text, has 0.01 nats more than none, and ends "
    "at most 0.02 of reward lower.",
    test="Paired differences over seeds, Student's 95 % interval.",
    criteria=(
        Criterion("rank correlation of semantic entropy and success at the start", below=-0.3),
        Criterion("final reward, low first − high first", above=0.02),
        Criterion("final reward, low first − every other first", above=0.02),
        Criterion("final reward, low first − all", above=0.02),
        Criterion("final entropy, low first − all, nats", above=0.02),
        Criterion("entropy at the same reward, low first − all, nats", above=0.02),
        Criterion("entropy at the same reward, SENT as released − no hold, nats", above=0.01),
        Criterion("entropy at the same reward, SENT as in the text − no hold, nats", above=0.01),
        Criterion("final reward, SENT as in the text − no hold", above=-0.02),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="The second half of the prompts comes at half time. Reward and entropy are those on "
    "all prompts, whichever are learnt from.",
)
