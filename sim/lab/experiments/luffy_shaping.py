"""LUFFY: a teacher's traces in every group, with and without shaping of their weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from entropy_ext.recipes import Sampling
from entropy_ext.rl.losses import mixed_policy
from sim.lab.compare import arm, compare, difference, difference_at
from sim.lab.enumeration import along
from sim.lab.exact import Policy
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves, style
from sim.lab.statistics import Interval, paired
from sim.lab.tables import Table, Tables
from sim.lab.task import Task
from sim.lab.tasks import token_tree

GAMMA, RARE, LEVEL = 0.1, 0.05, 0.2
SHAPED, RAW, OWN = "LUFFY", "LUFFY without shaping", "on policy"
# No entropy bonus, which the script has: what keeps entropy up is to be seen.
PLAIN: dict[str, Any] = {"entropy_coef": 0.0}
ARMS = {
    SHAPED: arm("luffy", gamma=GAMMA, **PLAIN),
    RAW: arm("luffy", gamma=None, **PLAIN),
    OWN: arm("luffy", sampling=Sampling(group_size=8), **PLAIN),
}


def _rare(task: Task) -> tuple[Tensor, Tensor]:
    """π at the start of every response's tokens, [N, P, L, T]; where the teacher's are rare."""
    start = Policy.of(task.tree, task.start)
    probs = along(task.tree, start.probs)
    return probs, task.correct[..., None] & task.tree.mask & (probs < RARE)


def _probe(task: Task, policy: Policy) -> Mapping[str, Tensor]:
    """Mean probability of the right responses' tokens that were rare at the start."""
    _, rare = _rare(task)
    held = torch.where(rare, along(task.tree, policy.probs), 0.0)
    return {"rare": held.sum((1, 2, 3)) / rare.sum((1, 2, 3)).clamp(min=1)}


def _weights(task: Task) -> Table:
    """Of a teacher's trace at the start: share of |∂loss/∂ln π| that falls on rare tokens."""
    probs, rare = _rare(task)
    assert task.teacher is not None
    rows: list[tuple[str, int, float]] = []
    for name, gamma in ((SHAPED, GAMMA), (RAW, None)):
        logp = torch.where(task.tree.mask, probs, 1.0).log().flatten(0, 2).requires_grad_()
        mask = torch.ones_like(logp, dtype=torch.bool)
        one = torch.ones_like(logp)
        loss = mixed_policy(logp, logp.detach(), one, mask, teacher=mask, gamma=gamma).loss
        (slope,) = torch.autograd.grad(loss.sum(), logp)
        weight = task.teacher[..., None] * slope.abs().view_as(probs) * task.tree.mask
        share = torch.where(rare, weight, 0.0).sum((1, 2, 3)) / weight.sum((1, 2, 3))
        rows += [(name, seed, value) for seed, value in enumerate(share.tolist())]
    return Table.of(("arm", "seed", "share"), rows)


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
        probe=_probe,
        runs=True,
    )
    return {**tables, "weights": _weights(task)}


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
    first = curves(tables, ("reward", "entropy", "rare", "reward"), labels=labels)
    figure = first.get_figure(root=True)
    assert figure is not None
    last = figure.axes[-1]
    last.clear()
    p = torch.logspace(-3, 0, 61).tolist()
    shaped = [GAMMA * x / (x + GAMMA) ** 2 for x in p]
    last.plot(p, shaped, label=SHAPED, **style(0))
    last.plot(p, p, label=RAW, **style(1))
    last.set(xscale="log", xlabel="π of the teacher's token", ylabel="weight of ∇ln π, A = 1")
    last.grid(alpha=0.25, linewidth=0.6)
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
