"""Keep Sampling Mask: what a top-p sampler left out is left out in training, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from entropy_ext.recipes import DeepSeekV32, Sampling
from sim.lab.compare import Arm, arm, compare, difference
from sim.lab.draws import normals
from sim.lab.enumeration import likelihood_gradient, relative_error
from sim.lab.exact import Policy
from sim.lab.experiment import Criterion, Experiment, Profile
from sim.lab.figures import lines, style
from sim.lab.statistics import Interval, exactly, interval
from sim.lab.tables import Table, Tables
from sim.lab.task import Task
from sim.lab.tasks import prompt_set
from sim.plots import panels

UPDATE = 51
"""stream of random numbers"""
TOP_P, LAG = 0.8, 4
SIZES, LARGE = (0.03, 0.1, 0.3, 1.0), 0.3
REPLAY, FULL, WHOLE = "replay", "no replay", "nothing left out"
OLD_REPLAY, OLD_FULL = f"replay, {LAG} steps late", f"no replay, {LAG} steps late"
SAMPLES, OUTSIDE = "reward of samples", "mass outside"
STEPS: dict[str, Any] = {"kl_coef": 0.0, "off_policy_threshold": None, "minibatches": 4}
NARROW = Sampling(top_p=TOP_P)


class _WithoutReplay(DeepSeekV32):
    """Ratios and gradients of the whole policy, though the sampler was narrower."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.needs = self.needs - {"support"}


def _without() -> DeepSeekV32:
    return _WithoutReplay(sampling=NARROW, **STEPS)


LATE = {"staleness": LAG}
ARMS = {
    REPLAY: arm("deepseek_v32", sampling=NARROW, **STEPS),
    FULL: Arm(_without, {}),
    OLD_REPLAY: arm("deepseek_v32", train=LATE, sampling=NARROW, **STEPS),
    OLD_FULL: Arm(_without, LATE),
    WHOLE: arm("deepseek_v32", **STEPS),
}


def nucleus(logits: Tensor) -> Tensor:
    """[..., V] bool: the fewest tokens, likeliest first, whose mass reaches TOP_P."""
    probs, order = logits.softmax(-1).sort(-1, descending=True)
    first = probs.cumsum(-1) - probs < TOP_P
    return torch.zeros_like(first).scatter(-1, order, first)


def narrowed(logits: Tensor, kept: Tensor) -> Tensor:
    """The logits of the sampler."""
    return logits.masked_fill(~kept, -torch.inf)


def sampled(task: Task, policy: Policy) -> Mapping[str, Tensor]:
    """Expected reward of what the sampler writes, and the mass it leaves out, mean over visits."""
    kept = nucleus(policy.logp)
    sampler = Policy.of(task.tree, narrowed(policy.logp, kept))
    outside = torch.where(kept, 0.0, policy.probs).sum(-1)
    visits = sampler.visits
    return {
        SAMPLES: sampler.mean(task.rewards).mean(-1),
        OUTSIDE: (visits * outside).sum((-2, -1)) / visits.sum((-2, -1)),
    }


def ratios(task: Task, old: Tensor, new: Tensor) -> dict[str, Tensor]:
    """|E[ρ] − 1| of a token under the sampler, mean over its visits, [N]; 0 if ρ is a ratio."""
    kept = nucleus(old)
    sampler = Policy.of(task.tree, narrowed(old, kept))
    found = {}
    for name, pair in ((REPLAY, (narrowed(old, kept), narrowed(new, kept))), (FULL, (old, new))):
        before, after = (table.log_softmax(-1) for table in pair)
        ratio = torch.where(kept, (after - before).exp(), 0.0)
        gap = ((sampler.probs * ratio).sum(-1) - 1).abs()
        found[name] = (sampler.visits * gap).sum((-2, -1)) / sampler.visits.sum((-2, -1))
    return found


def gradients(task: Task, logits: Tensor) -> dict[str, Tensor]:
    """Expected on-policy gradients on the logits, and that of the sampler's expected reward."""
    kept = nucleus(logits)
    leaf = logits.clone().requires_grad_()
    objective = Policy.of(task.tree, narrowed(leaf, kept)).mean(task.rewards).sum()
    (truth,) = torch.autograd.grad(objective, leaf)
    sampler = Policy.of(task.tree, narrowed(logits, kept))
    advantages = task.rewards - sampler.mean(task.rewards)[..., None]
    weights = (sampler.responses * advantages)[..., None].expand(-1, -1, -1, task.tree.max_length)
    return {
        "truth": truth,
        REPLAY: likelihood_gradient(task.tree, narrowed(logits, kept), weights),
        FULL: likelihood_gradient(task.tree, logits, weights),
    }


def measure(profile: Profile) -> Tables:
    """Ratios and gradients by enumeration; training with and without replay, fresh and stale."""
    task = prompt_set(range(profile.seeds), held_out=0, features=4)
    start = task.logits(task.start)
    noise = normals(task.seeds, UPDATE, shape=tuple(start.shape[1:]))
    gaps: list[tuple[str | float, ...]] = []
    for size in SIZES:
        for name, values in ratios(task, start, start + size * noise).items():
            gaps += [(name, size, n, value) for n, value in enumerate(values.tolist())]
    found = gradients(task, start)
    biases: list[tuple[str | float, ...]] = []
    for name in (REPLAY, FULL):
        errors = relative_error(found[name], found["truth"]).tolist()
        biases += [(name, n, error) for n, error in enumerate(errors)]
    return {
        "ratios": Table.of(("training", "size", "seed", "gap"), gaps),
        "gradients": Table.of(("training", "seed", "error"), biases),
        **compare(
            task,
            ARMS,
            steps=profile.pick(quick=15, full=40),
            learning_rate=20.0,
            measures=("entropy", "reward", SAMPLES, OUTSIDE),
            probe=sampled,
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
    axes = panels(3, width=4.8, height=3.8)
    gaps = [interval(tables["ratios"].numbers("gap", training=FULL, size=s)) for s in SIZES]
    axes[0].errorbar(
        SIZES,
        [gap.value for gap in gaps],
        yerr=[gap.high - gap.value for gap in gaps],
        marker="o",
        label=FULL,
        **style(1),
    )
    axes[0].set(xscale="log", yscale="log", xlabel="noise on the policy's logits, nats")
    axes[0].set_ylabel("|mean ratio of a token − 1|")
    axes[0].legend(frameon=False, fontsize="small")
    for axis, name in zip(axes[1:], (SAMPLES, OUTSIDE), strict=True):
        lines(axis, tables, name)
    axes[1].set_ylabel("expected reward of the sampler")
    axes[2].set_ylabel("mass that the sampler leaves out")
    axes[2].legend(frameon=False, fontsize="small")
    return axes[0]


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
