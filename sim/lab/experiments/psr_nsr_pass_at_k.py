"""PSR, NSR and W-REINFORCE: pass@k over k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from sim.lab.compare import arm, compare, difference, difference_at, final, gained, initial
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import legend, rule, style
from sim.lab.probes import entropy_of_right, held_out_pass
from sim.lab.statistics import Interval
from sim.lab.tables import Tables
from sim.lab.tasks import prompt_set
from sim.plots import panels

KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEVEL, LARGE = 0.7, "held-out pass@256"
SMALL: dict[str, Any] = {"minibatches": 4}
PSR, NSR, W, GRPO = "PSR", "NSR", "W-REINFORCE", "GRPO"
ARMS = {
    PSR: arm("psr", **SMALL),
    NSR: arm("nsr", **SMALL),
    # Between the two, with steps as long: its mean is over all tokens.
    W: arm("w_reinforce", train={"learning_rate": 40.0}, **SMALL),
    GRPO: arm("grpo", **SMALL),
    "PPO": arm("vapo", clip_high=0.2, nll_coef=0.0, decay=0.95, **SMALL),
}
HELD = {k: f"held-out pass@{k}" for k in KS}
SEEN = {k: f"pass@{k}" for k in KS}


def measure(profile: Profile) -> Tables:
    """Prompts from easy to hard, four right responses each, as many held out."""
    steps = profile.pick(quick=10, full=40)
    return compare(
        prompt_set(
            range(profile.seeds),
            prompts=12,
            held_out=12,
            features=8,
            vocab=8,
            max_length=2,
            easiest=0.9,
            hardest=0.01,
        ),
        ARMS,
        steps=steps,
        learning_rate=20.0,
        measures=("reward", "entropy", "right", *SEEN.values(), *HELD.values()),
        points=20,
        runs=True,
        ks=KS,
        probe=lambda task, policy: {
            **held_out_pass(task, policy, KS),
            "right": entropy_of_right(task, policy),
        },
    )


def judge(tables: Tables) -> Sequence[Interval]:
    """Both ends of the curve over k, and the variety of right responses."""
    return [
        difference(tables, HELD[1], PSR, NSR),
        gained(tables, PSR, LARGE),
        gained(tables, NSR, LARGE),
        difference(tables, LARGE, NSR, PSR),
        difference(tables, LARGE, W, PSR),
        difference(tables, HELD[1], W, NSR),
        difference_at(tables, LARGE, NSR, PSR, level=LEVEL),
        difference_at(tables, "right", NSR, PSR, level=LEVEL),
    ]


def plot(tables: Tables) -> Axes:
    """pass@k at the end, against the untrained policy's, on both sets of prompts."""
    axes = panels(2, width=5.4, height=4.2)
    for axis, (title, names) in zip(
        axes, {"held-out prompts": HELD, "trained prompts": SEEN}.items(), strict=True
    ):
        base = [initial(tables, PSR, measure).value for measure in names.values()]
        rule(axis, 0)
        for index, name in enumerate(ARMS):
            found = [final(tables, name, measure) for measure in names.values()]
            gain = [one.value - start for one, start in zip(found, base, strict=True)]
            axis.plot(KS, gain, marker="o", markersize=4, label=name, **style(index))
        axis.set_xscale("log", base=2)
        axis.set(xlabel="k", ylabel="pass@k, trained − untrained", title=title)
    legend(axes[0])
    return axes[0]


EXPERIMENT = Experiment(
    name="psr_nsr_pass_at_k",
    title="PSR and NSR over k",
    claim="Learning from right answers alone is best at pass@1 and falls below the untrained "
    "policy at large k; learning from wrong ones alone stays at or above it for all k; the "
    "weighted sum lies between.",
    paper="Negative Reinforcement, arXiv 2506.01347",
    effect="On held-out prompts, as in the paper: PSR above NSR at k = 1, and below the untrained "
    "policy at k = 256, where NSR is at most 0.01 below it and above PSR, W-REINFORCE above PSR; "
    "at k = 1 W-REINFORCE above NSR. NSR above PSR at k = 256, and with more variety among right "
    f"responses, also when both have a trained pass@1 of {LEVEL:g}.",
    test="Exact pass@k of each policy; paired differences over seeds, Student's 95 % interval.",
    criteria=(
        Criterion("held-out pass@1, PSR − NSR", above=0.0),
        Criterion("held-out pass@256, PSR − untrained", below=0.0),
        Criterion("held-out pass@256, NSR − untrained", above=-0.01),
        Criterion("held-out pass@256, NSR − PSR", above=0.0),
        Criterion("held-out pass@256, W-REINFORCE − PSR", above=0.0),
        Criterion("held-out pass@1, W-REINFORCE − NSR", above=0.0),
        Criterion("held-out pass@256 at the same reward, NSR − PSR", above=0.0),
        Criterion("entropy of right responses at the same reward, NSR − PSR, nats", above=0.0),
    ),
    measure=measure,
    judge=judge,
    plot=plot,
    caption="Exact expectations. On policy PSR and NSR have the same expected gradient on a "
    "prompt, up to scale, for scores average to 0: they differ by the noise of samples, which "
    "needs small batches, and by how prompts are weighed. NSR's mean is over wrong tokens alone, "
    "so that its push stays whole when few are left.",
)
