"""Skywork-OR1's adaptive entropy coefficient: where it holds the entropy, and how it swings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from sim.lab.compare import arm, compare, difference, second_halves
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves, one_seed, panel, rule
from sim.lab.probes import kept_entropy
from sim.lab.statistics import Interval, interval, paired
from sim.lab.tables import Tables
from sim.lab.tasks import token_tree

GROUP, TARGET, DELTA = 16, 0.4, 0.4
# The paper's step of 1e-4 and bound of 0.005 suit a learning rate of 1e-6 and a vocabulary of
# 150 000; these were chosen on other seeds, and so was the fixed coefficient, for the same mean.
SIZES: dict[str, Any] = {"target": TARGET, "maximum": 2.0}
CODE, PAPER, TRL = "code: lagged, <", "paper: current, ≤", "TRL: lagged, ≤, exact entropy"
SMALL, FIXED, NONE = "code, a quarter of the step", "fixed coefficient", "none"
ARMS = {
    CODE: arm("skywork_or1", delta=DELTA, **SIZES),
    PAPER: arm("skywork_or1", delta=DELTA, gate="current_le", **SIZES),
    TRL: arm("skywork_or1", delta=DELTA, gate="lagged_le", signal="entropy", **SIZES),
    SMALL: arm("skywork_or1", delta=DELTA / 4, **SIZES),
    FIXED: arm("skywork_or1", target=9.0, delta=0.0, maximum=1.0, entropy_coef=0.33),
    NONE: arm("skywork_or1", delta=0.0, maximum=0.0),
}


def measure(profile: Profile) -> Tables:
    """GRPO with rejection of groups without a signal, every step measured; on two kinds of data."""
    steps = profile.pick(quick=24, full=48)
    options: dict[str, Any] = {
        "steps": steps,
        "learning_rate": 60.0,
        "measures": ("seen", "entropy", "reward"),
        "points": steps,
        "runs": True,
        "probe": lambda task, policy: {"seen": kept_entropy(task, policy, GROUP)},
    }
    tables = compare(token_tree(range(profile.seeds)), ARMS, **options)
    easier = token_tree(range(profile.seeds), answers=4)
    both = {name: ARMS[name] for name in (CODE, FIXED)}
    return {**tables, "easier": compare(easier, both, **options)["runs"]}


def _mean(tables: Tables, name: str, runs: str = "runs") -> list[float]:
    return [statistics.fmean(half) for half in second_halves(tables[runs], name, "seen")]


def _miss(tables: Tables, name: str, runs: str = "runs") -> list[float]:
    return [abs(mean - TARGET) for mean in _mean(tables, name, runs)]


def _swing(tables: Tables, name: str) -> list[float]:
    return [statistics.stdev(half) for half in second_halves(tables["runs"], name, "seen")]


def judge(tables: Tables) -> Sequence[Interval]:
    """Where the entropy is held, against no bonus and a fixed one; then the saw-tooth."""
    return [
        *(interval(_mean(tables, name)) for name in (CODE, PAPER, TRL)),
        paired(_mean(tables, CODE), _mean(tables, NONE)),
        paired(_miss(tables, CODE), _miss(tables, FIXED)),
        paired(_miss(tables, CODE, "easier"), _miss(tables, FIXED, "easier")),
        paired(_swing(tables, CODE), _swing(tables, SMALL)),
        paired(_swing(tables, CODE), _swing(tables, PAPER)),
        difference(tables, "reward", CODE, NONE),
    ]


def plot(tables: Tables) -> Axes:
    """Means over seeds, then one seed alone, whose saw-tooth the means hide."""
    labels = {"seen": "token entropy of kept groups, nats"}
    first = curves(tables, ("seen", None, "reward"), labels=labels)
    alone = panel(first, 1)
    one_seed(alone, tables["runs"], "seen")
    for axis in (first, alone):
        rule(axis, TARGET)
    alone.set(ylabel=labels["seen"], title="one seed")
    return first


EXPERIMENT = Experiment(
    name="skywork_controller",
    title="Skywork-OR1's adaptive coefficient",
    claim="A coefficient that rises while entropy is below a target and falls while it is above "
    "keeps the entropy near the target, as no fixed one does for all data; it swings in a "
    "saw-tooth that grows with its step and its lag.",
    paper="Skywork-OR1, arXiv 2505.22312; the saw-tooth follows from the controller's equation",
    effect=f"In the second half of the run the entropy it sees is within 0.1 of {TARGET:g} nats "
    "under each gate, 0.1 nats above that without a bonus, and nearer to the target, seed by seed, "
    "than with the best fixed coefficient, also on easier data, for which nothing was chosen. Its "
    "deviation along the run is larger with four times the step, and with the lagged gate than "
    "without. The final reward is at most 0.05 lower.",
    test="Means and standard deviations along the second half of each run; Student's 95 % interval "
    "over seeds, differences paired.",
    criteria=(
        *(Criterion(f"entropy seen, {g}, nats", 0.3, 0.5) for g in (CODE, PAPER, TRL)),
        Criterion("entropy seen, controller − no bonus, nats", above=0.1),
        Criterion("distance from the target, controller − fixed coefficient, nats", below=0.0),
        Criterion("the same on easier data", below=0.0),
        Criterion("deviation along the run, whole − quarter of the step, nats", above=0.0),
        Criterion("deviation along the run, lagged − current gate, nats", above=0.0),
        Criterion("final reward, controller − no bonus", above=-0.05),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="The line is the target. The controller sees only groups with right and wrong answers, "
    "exactly weighted here by their chance to be kept; rejected ones, nearly decided, pull the "
    "mean over all prompts lower.",
)
