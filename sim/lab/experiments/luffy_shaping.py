"""LUFFY: a teacher's traces in every group, with and without shaping of their weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes

from entropy_ext.recipes import Sampling
from sim.lab.compare import arm, compare, difference, difference_at
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves, panel, style
from sim.lab.statistics import Interval, paired
from sim.lab.tables import Table, Tables
from sim.lab.tasks import token_tree
from sim.lab.teacher import rare_probability, rare_weight

GAMMA, RARE, LEVEL = 0.1, 0.05, 0.2
SHAPED, RAW, OWN = "LUFFY", "LUFFY without shaping", "on policy"
# No entropy bonus, which the script has: what keeps entropy up is to be seen.
PLAIN: dict[str, Any] = {"entropy_coef": 0.0}
ARMS = {
    SHAPED: arm("luffy", gamma=GAMMA, **PLAIN),
    RAW: arm("luffy", gamma=None, **PLAIN),
    OWN: arm("luffy", sampling=Sampling(group_size=8), **PLAIN),
}


def measure(profile: Profile) -> Tables:
    """Trees where one response in 500 is right, which 8 responses hardly ever find."""
    task = token_tree(
        range(profile.seeds),
        prompts=4,
        vocab=8,
        max_length=3,
        spread=2.0,
        answers=128,
        success=0.002,
    )
    steps = profile.pick(quick=60, full=90)
    tables = compare(
        task,
        ARMS,
        steps=steps,
        learning_rate=40.0,
        measures=("reward", "entropy", "rare"),
        probe=lambda task, policy: {"rare": rare_probability(task, policy, RARE)},
        runs=True,
    )
    weights = {(name,): rare_weight(task, RARE, g) for name, g in ((SHAPED, GAMMA), (RAW, None))}
    return {**tables, "weights": Table.by_seed(("arm", "seed", "share"), weights)}


def judge(tables: Tables) -> Sequence[Interval]:
    """Reward, entropy, and the rare tokens."""
    table = tables["weights"]
    shares = [table.numbers("share", arm=name) for name in (SHAPED, RAW)]
    return [
        difference(tables, "reward", SHAPED, OWN),
        difference(tables, "reward", SHAPED, RAW),
        difference(tables, "entropy", SHAPED, OWN),
        difference_at(tables, "entropy", SHAPED, OWN, level=LEVEL),
        difference_at(tables, "entropy", SHAPED, RAW, level=LEVEL),
        paired(*shares),
        difference_at(tables, "rare", SHAPED, RAW, level=LEVEL),
    ]


def plot(tables: Tables) -> Axes:
    """Along training, and the weight of a teacher's token by its probability."""
    labels = {"rare": "probability of rare teacher tokens"}
    first = curves(tables, ("reward", "entropy", "rare", None), labels=labels)
    last = panel(first, -1)
    p = torch.logspace(-3, 0, 61).tolist()
    shaped = [GAMMA * x / (x + GAMMA) ** 2 for x in p]
    last.plot(p, shaped, label=SHAPED, **style(0))
    last.plot(p, p, label=RAW, **style(1))
    last.set(xscale="log", xlabel="π of the teacher's token", ylabel="weight of ∇ln π, A = 1")
    return first


EXPERIMENT = Experiment(
    name="luffy_shaping",
    title="LUFFY's shaping",
    claim="A teacher's trace in each group teaches what the policy hardly ever finds itself; "
    "weighing its tokens by π/(π + 0.1) lets the rare ones count and keeps the entropy up, which "
    "on-policy training loses.",
    paper="Learning to Reason under Off-Policy Guidance, arXiv 2504.14945",
    effect="Final reward 0.05 above on-policy training and above that without shaping; more "
    f"entropy than on policy at the end, and by 0.02 nats at a reward of {LEVEL:g}, also than "
    f"without shaping; at the start tokens below {RARE:g} get 0.1 more of the weight of a "
    "teacher's trace than without shaping, and at the same reward they are likelier.",
    test="Sums over all traces of the teacher; exact measures in training; paired differences over "
    "seeds, Student's 95 % interval.",
    criteria=(
        Criterion("final reward, LUFFY − on policy", above=0.05),
        Criterion("final reward, LUFFY − without shaping", above=0.05),
        Criterion("final entropy, LUFFY − on policy, nats", above=0.0),
        Criterion(f"entropy at a reward of {LEVEL:g}, LUFFY − on policy, nats", above=0.02),
        Criterion(f"entropy at a reward of {LEVEL:g}, LUFFY − without shaping, nats", above=0.02),
        Criterion("share of a trace's weight on rare tokens, shaped − not", above=0.1),
        Criterion(f"π of rare tokens at a reward of {LEVEL:g}, shaped − not", above=0.0),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="The teacher writes each right response equally often. Rare: tokens of right responses "
    f"to which the policy gave less than {RARE:g} at the start. On policy: the same recipe with 8 "
    "responses of its own.",
)
