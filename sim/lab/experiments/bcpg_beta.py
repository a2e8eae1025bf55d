"""BCPG-NSA: how hard the correct steps of wrong stored responses are to be punished."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from entropy_ext.recipes import Sampling
from sim.lab.compare import arm, compare, difference, final
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves, error_bars, legend, panel, style
from sim.lab.statistics import Interval
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set

BETAS = (1.0, 0.5, 0.0, -0.5, -1.0)
SCORES = {"reward": "pass@1 on trained prompts", "held_out": "pass@1 on held-out prompts"}
STORED = Sampling(group_size=16, temperature=0.7, offline=True)
ARMS = {f"β = {beta:g}": arm("bcpg_nsa", beta=beta, sampling=STORED) for beta in BETAS}
FULL, SOFT, NEGATIVE, OPPOSITE = (f"β = {beta:g}" for beta in (1.0, 0.5, -0.5, -1.0))


def measure(profile: Profile) -> Tables:
    """One store of 16 responses to each of 8 prompts, all of it in every step."""
    task = prompt_set(range(profile.seeds), held_out=24, features=8, max_length=4, right=8)
    return compare(
        task,
        ARMS,
        steps=profile.pick(quick=14, full=30),
        learning_rate=60.0,
        measures=("held_out", "reward", "entropy"),
        stored=1,
    )


def judge(tables: Tables) -> Sequence[Interval]:
    """Whether the scores rise as β falls from 1, and whether they fall again."""
    return [
        difference(tables, "held_out", SOFT, FULL),
        difference(tables, "held_out", NEGATIVE, FULL),
        difference(tables, "held_out", OPPOSITE, SOFT),
        difference(tables, "reward", SOFT, FULL),
        difference(tables, "reward", OPPOSITE, SOFT),
        difference(tables, "entropy", SOFT, FULL),
    ]


def plot(tables: Tables) -> Axes:
    """Along training, and on the last panel what is left of it for each β."""
    first = curves(tables, ("held_out", "entropy", None), labels=SCORES)
    last = panel(first, -1)
    for index, (measure, label) in enumerate(SCORES.items()):
        found = [final(tables, name, measure) for name in ARMS]
        error_bars(last, BETAS, found, marker="o", capsize=3, label=label, **style(index))
    last.set(xlabel="β on correct steps of wrong responses", ylabel="pass@1 at the end")
    legend(last)
    return first


EXPERIMENT = Experiment(
    name="bcpg_beta",
    title="BCPG-NSA's β",
    claim="Stored wrong responses teach more when their correct steps are punished less: the score "
    "rises as β falls from 1, even at −0.5, and falls again further down.",
    paper="Unearthing Gems from Stones, arXiv 2505.14403",
    effect="pass@1 at the end of the run: on held-out prompts, which the paper's benchmarks are, "
    "higher with β = 0.5 and −0.5 than with 1, and lower with −1 than with 0.5; the first and the "
    "last also on the trained prompts. The paper's gain is 0.01. β = 0.5 keeps more entropy.",
    test="Paired differences over seeds, Student's 95 % interval.",
    criteria=(
        Criterion("held-out pass@1, β 0.5 − 1", above=0.0),
        Criterion("held-out pass@1, β −0.5 − 1", above=0.0),
        Criterion("held-out pass@1, β −1 − 0.5", below=0.0),
        Criterion("pass@1 on trained prompts, β 0.5 − 1", above=0.0),
        Criterion("pass@1 on trained prompts, β −1 − 0.5", below=0.0),
        Criterion("final entropy, β 0.5 − 1, nats", above=0.0),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="A step of a wrong response is correct while a right response can still be reached. "
    "Prompts share parameters and the store is small, 16 responses per prompt (32 in the paper), "
    "so that punishment harms what was not sampled.",
)
