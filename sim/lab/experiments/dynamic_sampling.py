"""DAPO's dynamic sampling: groups without right and wrong answers are replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from torch import Tensor

from entropy_ext.recipes import DynamicSampling, Sampling
from sim.lab.compare import Arm, arm, compare, difference, difference_at, final
from sim.lab.exact import Policy
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves
from sim.lab.statistics import Interval
from sim.lab.tables import Tables
from sim.lab.task import Task
from sim.lab.tasks import prompt_set

GROUP, GROUPS = 8, 8
PLAIN, REFILLED, DROPPED = "GRPO", "dropped and refilled", "dropped only"
FASTER = "GRPO, steps twice as long"
ARMS = {
    PLAIN: arm("grpo", sampling=Sampling(group_size=GROUP)),
    REFILLED: Arm(lambda: DynamicSampling(sampling=Sampling(group_size=GROUP, refill=9)), {}),
    DROPPED: Arm(lambda: DynamicSampling(sampling=Sampling(group_size=GROUP)), {}),
    FASTER: arm("grpo", sampling=Sampling(group_size=GROUP), train={"learning_rate": 20.0}),
}


def _mute(task: Task, policy: Policy) -> Mapping[str, Tensor]:
    """Chance that all answers of a group are right, or all wrong: nothing to learn from."""
    success = policy.mean(task.correct.double())[:, task.trained]
    return {"mute": (success**GROUP + (1 - success) ** GROUP).mean(-1)}


def measure(profile: Profile) -> Tables:
    """Prompts from easy to hard, half of them in each batch."""
    steps = profile.pick(quick=20, full=50)
    return compare(
        prompt_set(range(profile.seeds), prompts=2 * GROUPS, vocab=3, easiest=0.95),
        ARMS,
        steps=steps,
        learning_rate=10.0,
        points=steps,
        groups=GROUPS,
        measures=("reward", "held_out", "mute", "sampled"),
        probe=_mute,
        runs=True,
    )


def judge(tables: Tables) -> Sequence[Interval]:
    """After the same steps, and after the same number of responses."""
    budget = min(tables["finals"].numbers("value", arm=PLAIN, measure="sampled"))
    # GRPO draws the same number in every step, so that its own end is at its budget.
    return [
        final(tables, PLAIN, "mute"),
        difference(tables, "reward", REFILLED, PLAIN),
        difference_at(tables, "reward", REFILLED, PLAIN, level=budget, of="sampled"),
        difference_at(tables, "reward", REFILLED, DROPPED, level=budget, of="sampled"),
        difference(tables, "reward", REFILLED, FASTER),
        difference(tables, "held_out", REFILLED, PLAIN),
    ]


def plot(tables: Tables) -> Axes:
    """By steps; responses sampled tell what they cost."""
    labels = {"mute": "groups all right or all wrong, share", "sampled": "responses sampled"}
    return curves(tables, ("reward", "held_out", "mute", "sampled"), labels=labels)


EXPERIMENT = Experiment(
    name="dynamic_sampling",
    title="Dynamic sampling",
    claim="Groups whose answers are all right or all wrong teach nothing; replaced by others until "
    "the batch is full, fewer steps reach the same reward, at no higher cost.",
    paper="DAPO, arXiv 2503.14476",
    effect="At the end of GRPO's run a third of its groups is without signal. Refilled, the reward "
    "is higher by 0.01 after the same steps, on held-out prompts, too; after the same "
    "number of sampled responses, those thrown away included, it is no lower, within 0.005. "
    "Refilling beats dropping alone after the same number of responses, and GRPO with steps twice "
    "as long after the same number of steps.",
    test="Paired differences over seeds, Student's 95 % interval.",
    criteria=(
        Criterion("GRPO's groups without right and wrong answers at the end, share", above=1 / 3),
        Criterion("reward after the same steps, refilled − GRPO", above=0.01),
        Criterion("reward after the same responses, refilled − GRPO", above=-0.005),
        Criterion("reward after the same responses, refilled − dropped only", above=0.0),
        Criterion("reward after the same steps, refilled − GRPO, steps twice as long", above=0.0),
        Criterion("held-out pass@1 after the same steps, refilled − GRPO", above=0.01),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="Batches of 8 groups of 8, from 16 prompts; up to nine more are drawn in a step to "
    "fill one. Dropping alone leaves a smaller batch, whose mean is over what is left.",
    revisions=(
        "2026-11-23: first results on the report's seeds were judged by any lead on held-out "
        "prompts, loosened after runs on other seeds; the 0.01 first written is back.",
    ),
)
