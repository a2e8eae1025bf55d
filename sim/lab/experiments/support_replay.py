"""Keep Sampling Mask: what a top-p sampler left out is left out in training, too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from entropy_ext.recipes import Sampling
from sim.lab.compare import Arm, arm, compare, difference
from sim.lab.draws import normals
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import error_bars, legend, lines, style
from sim.lab.statistics import Interval, exactly, interval
from sim.lab.support import (
    FULL,
    OUTSIDE,
    REPLAY,
    SAMPLES,
    WithoutReplay,
    gradient_bias,
    ratio_bias,
    sampled,
)
from sim.lab.tables import Table, Tables
from sim.lab.tasks import prompt_set
from sim.plots import panels

UPDATE = 51
"""stream of random numbers"""
TOP_P, LAG = 0.8, 4
SIZES, LARGE = (0.03, 0.1, 0.3, 1.0), 0.3
WHOLE = "nothing left out"
OLD_REPLAY, OLD_FULL = f"{REPLAY}, {LAG} steps late", f"{FULL}, {LAG} steps late"
LATE = {"staleness": LAG}
STEPS: dict[str, Any] = {"kl_coef": 0.0, "off_policy_threshold": None, "minibatches": 4}
NARROW: dict[str, Any] = {"sampling": Sampling(top_p=TOP_P), **STEPS}
ARMS = {
    REPLAY: arm("deepseek_v32", **NARROW),
    FULL: Arm(lambda: WithoutReplay(**NARROW), {}),
    OLD_REPLAY: arm("deepseek_v32", train=LATE, **NARROW),
    OLD_FULL: Arm(lambda: WithoutReplay(**NARROW), LATE),
    WHOLE: arm("deepseek_v32", **STEPS),
}


def measure(profile: Profile) -> Tables:
    """Ratios and gradients by enumeration; training with and without replay, fresh and stale."""
    task = prompt_set(range(profile.seeds), held_out=0, features=4)
    noise = normals(task.seeds, UPDATE, shape=(task.prompts, task.tree.size, task.tree.vocab))
    gaps = ratio_bias(task, noise, SIZES, top_p=TOP_P)
    errors = gradient_bias(task, top_p=TOP_P)
    return {
        "ratios": Table.by_seed(("training", "size", "seed", "gap"), gaps),
        "gradients": Table.by_seed(("training", "seed", "error"), errors),
        **compare(
            task,
            ARMS,
            steps=profile.pick(quick=15, full=40),
            learning_rate=20.0,
            measures=("entropy", "reward", SAMPLES, OUTSIDE),
            probe=partial(sampled, top_p=TOP_P),
        ),
    }


def judge(tables: Tables) -> Sequence[Interval]:
    """Bias of ratio and gradient without replay and with it; then training."""
    ratio, gradient = tables["ratios"], tables["gradients"]
    exact = [*ratio.numbers("gap", training=REPLAY), *gradient.numbers("error", training=REPLAY)]
    return [
        interval(ratio.numbers("gap", training=FULL, size=LARGE)),
        interval(gradient.numbers("error", training=FULL)),
        exactly(max(exact)),
        difference(tables, SAMPLES, REPLAY, FULL),
        difference(tables, SAMPLES, OLD_REPLAY, OLD_FULL),
        difference(tables, "reward", OLD_REPLAY, OLD_FULL),
    ]


def plot(tables: Tables) -> Axes:
    """The ratio's bias; the reward of what the sampler writes, and the mass it leaves out."""
    ratio, samples, outside = panels(3, width=4.8, height=3.8)
    gaps = [interval(tables["ratios"].numbers("gap", training=FULL, size=s)) for s in SIZES]
    error_bars(ratio, SIZES, gaps, marker="o", label=FULL, **style(1))
    ratio.set(xscale="log", yscale="log", xlabel="noise on the policy's logits, nats")
    ratio.set_ylabel("|mean ratio of a token − 1|")
    lines(samples, tables, SAMPLES)
    samples.set_ylabel("expected reward of the sampler")
    lines(outside, tables, OUTSIDE)
    outside.set_ylabel("mass that the sampler leaves out")
    legend(ratio, outside)
    return ratio


EXPERIMENT = Experiment(
    name="support_replay",
    title="Keep Sampling Mask",
    claim="Where top-p leaves tokens out of the sampling, ratios and gradients of the whole policy "
    "are wrong; replaying what was kept makes them right and training better.",
    paper="DeepSeek-V3.2, arXiv 2512.02556",
    effect=f"At top-p {TOP_P:g} without replay: a token's ratio has a mean 0.01 off 1 once the "
    f"logits have moved by {LARGE:g} nats, the gradient is 5 % off that of the sampler's expected "
    "reward; with replay both are exact. Training with replay ends with 0.02 more reward of the "
    "sampler, on fresh and on stale responses, and no less of the policy's own.",
    test="Sums over all responses; paired differences over seeds; Student's 95 % interval.",
    criteria=(
        Criterion(f"|mean ratio − 1| without replay, logits moved by {LARGE:g}", above=0.01),
        Criterion("relative bias of the gradient without replay", above=0.05),
        Criterion("largest of either with replay", below=1e-10),
        Criterion("final reward of the sampler, replay − none", above=0.02),
        Criterion(f"the same, {LAG} steps late", above=0.02),
        Criterion(f"final reward of the policy, replay − none, {LAG} steps late", above=-0.02),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="With replay the mean ratio is 1 to rounding. What the sampler leaves out is never "
    "learnt about, so that in all runs at top-p the policy itself keeps a tail that is wrong.",
)
