"""MiniRL: an importance weight for a sampler that is not the trainer's policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from sim.lab.compare import AT_LEVEL, Arm, arm, compare, difference
from sim.lab.draws import normals
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import biases, legend, lines
from sim.lab.mismatch import NONE, RESPONSE, TOKEN, Uncorrected, mismatch_bias
from sim.lab.statistics import Interval, exactly, interval, ratio
from sim.lab.tables import Table, Tables
from sim.lab.tasks import token_tree
from sim.plots import panels

ENGINE = 50
"""stream of random numbers"""
SIGMAS, SMALL, LARGE = (0.01, 0.03, 0.1, 0.3, 1.0), 0.1, 1.0
LEVEL = 0.6
MATCHED, LASTING, ANEW = "matched sampler", "lasting noise", "noise anew"
STEPS: dict[str, Any] = {"minibatches": 2}


def measure(profile: Profile) -> Tables:
    """Gradients under engines that differ by more and more; training with two kinds of engine."""
    task = token_tree(range(profile.seeds), prompts=4)
    noise = normals(task.seeds, ENGINE, shape=tuple(task.start.shape[1:]))
    arms = {MATCHED: arm("minirl", **STEPS)}
    for kind, mismatch in ((LASTING, LARGE * noise), (ANEW, LARGE)):
        arms[f"{TOKEN}, {kind}"] = arm("minirl", train={"mismatch": mismatch}, **STEPS)
        arms[f"{NONE}, {kind}"] = Arm(lambda: Uncorrected(**STEPS), {"mismatch": mismatch})
    steps = profile.pick(quick=25, full=80)
    columns = ("weight", "sigma", "seed", "error")
    return {
        "bias": Table.by_seed(columns, mismatch_bias(task, noise, SIGMAS)),
        **compare(task, arms, steps=steps, learning_rate=5.0, level=LEVEL),
    }


def judge(tables: Tables) -> Sequence[Interval]:
    """Bias of the gradient; then training with and without the weight."""
    bias = tables["bias"]
    token, none = (bias.numbers("error", weight=name, sigma=SMALL) for name in (TOKEN, NONE))
    weighted, plain = f"{TOKEN}, {LASTING}", f"{NONE}, {LASTING}"
    return [
        interval(none),
        ratio(token, none),
        exactly(max(bias.numbers("error", weight=RESPONSE))),
        difference(tables, "reward", weighted, plain),
        difference(tables, "entropy", weighted, plain),
        difference(tables, AT_LEVEL, weighted, plain),
        difference(tables, "reward", weighted, MATCHED),
        difference(tables, "reward", f"{TOKEN}, {ANEW}", f"{NONE}, {ANEW}"),
    ]


def plot(tables: Tables) -> Axes:
    """Bias against the size of the mismatch; reward and entropy along training."""
    bias, reward, entropy = panels(3, width=4.8, height=3.8)
    weights = {name: {"weight": name} for name in (NONE, TOKEN)}
    biases(bias, tables["bias"], "sigma", "error", lines=weights)
    bias.set_xlabel("noise on the sampler's logits, nats")
    bias.set_ylabel("bias of the expected gradient, relative")
    lines(reward, tables, "reward")
    lines(entropy, tables, "entropy")
    legend(bias, reward)
    return bias


EXPERIMENT = Experiment(
    name="minirl_mismatch",
    title="MiniRL under a mismatched sampler",
    claim="Where the sampler differs from the trainer's policy, a truncated importance weight on "
    "each token makes the token-level gradient right to first order; without it training "
    "collapses, and so does the entropy.",
    paper="Stabilizing RL with LLMs (MiniRL), arXiv 2512.01374",
    effect=f"At noise of {SMALL:g} nats the gradient without a weight is off by more than 5 %, and "
    "the weight removes half of that at least; a weight on the whole response removes all. With "
    f"lasting noise of {LARGE:g} nats the weight ends with 0.02 more reward and 0.02 nats more "
    f"entropy, has 0.01 nats more at a reward of {LEVEL:g}, and is at most 0.05 worse than with a "
    "matched sampler; it helps by 0.02 also where the noise is drawn anew in each step.",
    test="Gradients by enumeration; paired differences over seeds; Student's 95 % interval.",
    criteria=(
        Criterion(f"relative bias without a weight, noise {SMALL:g}", above=0.05),
        Criterion("the same with a weight per token, over that without", below=0.5),
        Criterion("largest relative bias with a weight per response", below=1e-10),
        Criterion("final reward, weight − none, lasting noise", above=0.02),
        Criterion("final entropy, weight − none, lasting noise, nats", above=0.02),
        Criterion("entropy at the same reward, weight − none, lasting noise, nats", above=0.01),
        Criterion("final reward, weight under lasting noise − matched", above=-0.05),
        Criterion("final reward, weight − none, noise anew in each step", above=0.02),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="Left: both biases are of first order in the noise. A token's own weight leaves out "
    "the ratios of the tokens before and after it, which matter as much.",
)
