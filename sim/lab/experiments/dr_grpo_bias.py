"""Dr. GRPO: what GRPO's two divisions do to lengths and to prompts of different difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes

from entropy_ext.recipes import Sampling
from sim.lab.compare import arm, compare, difference_at, gained
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import curves
from sim.lab.measures import lengths
from sim.lab.probes import hardest
from sim.lab.slopes import first_scores, price, zscore_weight
from sim.lab.statistics import Interval, exactly, interval
from sim.lab.tables import Table, Tables
from sim.lab.tasks import prompt_set, token_tree

LEVEL, GROUP = 0.6, 16
LONG: dict[str, Any] = {"vocab": 3, "max_length": 5, "answers": 4, "end": True, "end_bias": -1.0}
COMMON: dict[str, Any] = {"minibatches": 1, "sampling": Sampling(group_size=GROUP)}
# A sum over tokens divided by the longest length is a third of a mean; no division by a spread of
# about 0.4 makes it smaller still.
ARMS = {
    "GRPO": arm("grpo", **COMMON),
    "Dr. GRPO": arm("dr_grpo", **COMMON, train={"learning_rate": 30.0}),
}
NO_LENGTHS: dict[str, Any] = {**COMMON, "aggregation": "seq-mean-token-sum-norm"}
SPREADS = {
    "divided by the spread": arm("grpo", **NO_LENGTHS),
    "not divided": arm("dr_grpo", **COMMON, train={"learning_rate": 30.0}),
}


def measure(profile: Profile) -> Tables:
    """Lengths on trees where what runs to the limit is wrong; difficulty on graded prompts."""
    options: dict[str, Any] = {
        "steps": profile.pick(quick=16, full=60),
        "points": 20,
        "runs": True,
    }
    tables = compare(
        token_tree(range(profile.seeds), prompts=4, **LONG),
        ARMS,
        learning_rate=10.0,
        measures=("reward", "entropy", "length_wrong", "length_right"),
        probe=lengths,
        **options,
    )
    graded = compare(
        prompt_set(range(profile.seeds), easiest=0.9, held_out=1),
        SPREADS,
        learning_rate=15.0,
        measures=("reward", "hardest"),
        probe=lambda task, policy: {"hardest": hardest(task, policy)},
        **options,
    )
    success = torch.tensor([0.05, 0.5], dtype=torch.float64)
    weights = zip(success.tolist(), zscore_weight(success, GROUP).tolist(), strict=True)
    first = token_tree(range(10 * profile.seeds), prompts=1, **LONG)
    grown = {
        (name,): price(first, scores, lambda policy: lengths(first, policy)["length_wrong"])
        for name, scores in first_scores(first, GROUP).items()
    }
    return {
        **tables,
        "graded": graded["runs"],
        "first steps": Table.by_seed(("arm", "seed", "value"), grown),
        "weights": Table.of(("success", "weight"), list(weights)),
    }


def judge(tables: Tables) -> Sequence[Interval]:
    """The two biases exactly, then what is left of them in training."""
    first = tables["first steps"]
    hard, even = tables["weights"].numbers("weight")
    return [
        *(interval(first.numbers("value", arm=name)) for name in ARMS),
        *(gained(tables, name, "length_wrong") for name in ARMS),
        difference_at(tables, "length_wrong", "GRPO", "Dr. GRPO", level=LEVEL),
        exactly(hard / even),
        difference_at({"runs": tables["graded"]}, "hardest", *SPREADS, level=LEVEL),
    ]


def plot(tables: Tables) -> Axes:
    """Lengths and reward along training."""
    return curves(tables, ("length_wrong", "length_right", "reward"))


EXPERIMENT = Experiment(
    name="dr_grpo_bias",
    title="Dr. GRPO's two biases",
    claim="Dividing a response's loss by its length makes wrong responses longer, and without that "
    "division they stop growing; dividing by the group's spread favours prompts that are hard.",
    paper="Understanding R1-Zero-Like Training, arXiv 2503.20783",
    effect="In GRPO's exact expected first step wrong responses grow by more than 0.3 tokens per "
    "unit of reward gained, in Dr. GRPO's by less; in training by 0.2 tokens under GRPO, by less "
    f"than 0.1 under Dr. GRPO, and by 0.2 more at the same reward of {LEVEL:g}. A prompt of 5 % "
    "success weighs more than 1.5 times one of 50 %, and at the same mean reward the hardest "
    "quarter is the better by 0.01 for it.",
    test="First steps by enumeration, the weight by the binomial distribution; Student's 95 % "
    "interval over seeds, differences paired.",
    criteria=(
        Criterion("first step of GRPO, growth of wrong responses, tokens per reward", above=0.3),
        Criterion("the same of Dr. GRPO", below=0.3),
        Criterion("growth of wrong responses, GRPO, tokens", above=0.2),
        Criterion("growth of wrong responses, Dr. GRPO, tokens", below=0.1),
        Criterion("length of wrong responses at the same reward, difference, tokens", above=0.2),
        Criterion("GRPO's weight on 5 % success over that on 50 %", above=1.5),
        Criterion("hardest quarter at the same reward, with − without the spread", above=0.01),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="Expected tokens of the wrong and of the right responses to each prompt, of at most 5; "
    "what runs to the limit is wrong.",
    revisions=(
        "2026-11-23: first results on the report's seeds were judged by bounds loosened after runs "
        "on other seeds (Dr. GRPO's first step 1 token below GRPO's, 0.1 tokens at the same "
        "reward); those first written are back.",
    ),
)
