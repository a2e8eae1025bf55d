"""Likely or rare, good or bad: which way the entropy goes, and where exactly it turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes

from entropy_ext import entropy_change as predicted_change
from entropy_ext import token_stats
from sim.lab.draws import normals
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import style
from sim.lab.logit_steps import ETA, UPDATES, margin, slope, step, turn
from sim.lab.statistics import Interval, exactly
from sim.lab.tables import Table, Tables
from sim.plots import panels
from sim.tabular import entropy_change, softmax_policy

ACTIONS = 8
LOGITS = 34
"""stream of random numbers"""


def measure(profile: Profile) -> Tables:
    """Signs of measured changes on random policies, and the point where each turns."""
    count = profile.pick(quick=2000, full=20000)
    logits = 2.0 * normals(torch.arange(count), LOGITS, shape=(ACTIONS,))
    policy = softmax_policy(logits.numpy())
    stats = token_stats(logits, torch.zeros(count, dtype=torch.int64), extras=True)
    ours = predicted_change(stats, torch.ones_like(stats.logp)).numpy()
    likely, rows = margin(policy, "bump") > 0, []
    for update, direction in UPDATES.items():
        wanted = margin(policy, update)
        # Within the second order of the boundary the step itself decides.
        clear = np.abs(wanted) > 100 * ETA
        for sign in (1, -1):
            change = entropy_change(policy, sign * ETA * direction(policy))
            wrong = int(((np.sign(change) != -sign * np.sign(wanted)) & clear).sum())
            falls = [int((change[part] < 0).sum()) for part in (likely, ~likely)]
            rows.append((update, sign, count, int(likely.sum()), *falls, wrong))
    turns = []
    for row in range(profile.pick(quick=20, full=100)):
        for update in UPDATES:
            turns.append((row, update, *turn(logits[row, 1:].numpy(), update)))
    gap = float(np.abs(ours - slope(policy, step(policy))).max())
    columns = ("update", "advantage", "policies", "likely", "likely_falls", "rare_falls", "wrong")
    return {
        "signs": Table.of(columns, rows),
        "turns": Table.of(("row", "update", "logit", "margin"), turns),
        "library": Table.of(("largest_gap",), [(gap,)]),
    }


def judge(tables: Tables) -> Sequence[Interval]:
    """Wrong signs, distance of the turning points from the boundaries, the library's own form."""
    signs, turns = tables["signs"], tables["turns"]
    return [
        *(exactly(sum(signs.numbers("wrong", update=u))) for u in UPDATES),
        *(exactly(max(map(abs, turns.numbers("margin", update=u)))) for u in UPDATES),
        exactly(tables["library"].numbers("largest_gap")[0]),
    ]


def plot(tables: Tables) -> Axes:
    """The sign table: how often the entropy falls."""
    axes = panels(2, width=4.8, height=3.4)
    names = {"bump": "raise or lower one logit", "step": "policy-gradient step"}
    for axis, update in zip(axes, names, strict=True):
        for index, (advantage, label) in enumerate(((1, "A > 0"), (-1, "A < 0"))):
            row = tables["signs"].where(update=update, advantage=advantage)
            count, likely = row.numbers("policies")[0], row.numbers("likely")[0]
            falls = [row.numbers("likely_falls")[0], row.numbers("rare_falls")[0]]
            shares = [falls[0] / likely, falls[1] / (count - likely)]
            places = [place + 0.38 * (index - 0.5) for place in (0, 1)]
            axis.bar(places, shares, width=0.36, color=style(index)["color"], label=label)
        axis.set_xticks([0, 1], ["likely: ln π > −H", "rare: ln π < −H"])
        axis.set(ylabel="entropy falls, share of policies", title=names[update], ylim=(0, 1.05))
        axis.set_axisbelow(True)
        axis.legend(frameon=False)
    return axes[0]


EXPERIMENT = Experiment(
    name="sign_table",
    title="The sign table",
    group="Theory",
    claim="Reinforcing a likely action lowers the entropy, a rare one raises it, and a negative "
    "advantage does the opposite. The turn is at ln π = −H for one logit, and at S_a = Σ π S, "
    "S = π (ln π + H), for a policy-gradient step.",
    paper="The Entropy Mechanism, arXiv 2505.22617; STEER, arXiv 2510.10150",
    effect="No sign is wrong outside the second order of the boundary, and the measured turn lies "
    "on it.",
    test="None is needed: exact arithmetic; the turn by bisection of the measured slope.",
    criteria=(
        Criterion("wrong signs, one logit", below=1),
        Criterion("wrong signs, policy-gradient step", below=1),
        Criterion("|ln π + H| at the turn, one logit", below=1e-8),
        Criterion("|S_a − Σ π S| at the turn, policy-gradient step", below=1e-8),
        Criterion("|entropy_change() − measured slope|", below=1e-8),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="For a single logit the table is exact. For a policy-gradient step, which lowers all "
    "other logits too, likely and rare are divided elsewhere, so that the table holds mostly.",
)
