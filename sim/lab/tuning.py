"""The same small budget of configurations for every recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from entropy_ext.recipes import Recipe
from sim.lab.exact import Policy, pass_at_k
from sim.lab.harness import Trainer
from sim.lab.measures import Probe
from sim.lab.task import Task

__all__ = [
    "Config",
    "Options",
    "Setting",
    "Trial",
    "final",
    "held_out",
    "on_held_out",
    "run",
    "tune",
]

Options: TypeAlias = Mapping[str, Any]

CRITIC_RATE = 5.0
"""step size on VAPO's table of values"""


class Setting(NamedTuple):
    """How a task is trained on; the same for every recipe."""

    task: Callable[[Sequence[int]], Task]
    """from seeds"""
    steps: int
    groups: int
    """prompts in a batch"""
    scores: tuple[str, str] = ("pass@1", "pass@64")
    """measures of performance"""
    rates: Sequence[float] = (0.05, 0.1, 0.2, 0.4)
    """learning rates of Adam to choose from"""
    group_size: int = 16
    probe: Probe | None = None
    options: Options = MappingProxyType({})
    """further arguments of `Trainer`"""

    @property
    def budget(self) -> int:
        """Responses that a run may draw."""
        return self.steps * self.groups * self.group_size


def on_held_out(task: Callable[[Sequence[int]], Task], *, steps: int, **options: Any) -> Setting:
    """Four prompts at a time, scored on those held out; options are of `Trainer`."""
    scores = ("held_out", "held_out@64")
    return Setting(task, steps, groups=4, scores=scores, probe=held_out, options=options)


class Config(NamedTuple):
    """One of the configurations of a recipe."""

    options: Options
    rate: float

    def __str__(self) -> str:
        chosen = [f"{name} {value:g}" for name, value in self.options.items()]
        return ", ".join([*chosen, f"rate {self.rate:g}"])


def _configured(make: Callable[..., Recipe], options: Options, group_size: int) -> Recipe:
    """A recipe in the laboratory's sizes: `group_size` responses, at most 4 mini-batches."""
    recipe = make(**options)
    recipe.sampling = replace(recipe.sampling, group_size=group_size)
    # Of 64 responses the papers' 8 or 16 mini-batches would be a handful of tokens each.
    recipe.minibatches = min(recipe.minibatches, 4)
    # VAPO's 50 steps for its critic alone would be more than a run.
    recipe.value_pretraining = 0
    return recipe


def run(
    make: Callable[..., Recipe],
    options: Options,
    setting: Setting,
    task: Task,
    rate: float | Tensor,
    *,
    points: int,
) -> dict[str, Tensor]:
    """A training run of every seed, over when as many responses were drawn as by all others.

    A recipe that draws anew what it drops takes fewer steps than one that does not.

    Args:
        make: makes the recipe from options.
        options: its hyper-parameters.
        setting: what is the same for all.
        task: of N seeds.
        rate: learning rate, one for all or [N].
        points: measurements along the run, about.

    Returns:
        measures [K, N]; "sampled" the responses drawn, "updates" the optimizer steps.
    """
    trainer = Trainer(
        task,
        lambda: _configured(make, options, setting.group_size),
        steps=setting.steps,
        learning_rate=rate,
        groups=setting.groups,
        optimizer="adam",
        # A critic that has to be learnt: nobody is told the exact values.
        critic_rate=CRITIC_RATE,
        **setting.options,
    )
    every = max(1, setting.steps // points)
    rows = [trainer.measure((1, 64), setting.probe)]
    updates = [0.0]
    while trainer.done < setting.steps and bool((rows[-1]["sampled"] < setting.budget).any()):
        trainer.step()
        if trainer.done % every == 0 or trainer.done == setting.steps:
            rows.append(trainer.measure((1, 64), setting.probe))
            updates.append(float(trainer.done * trainer.kind.epochs * trainer.kind.minibatches))
    found = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    found["updates"] = torch.tensor(updates).double()[:, None].expand_as(found["sampled"])
    return found


def final(history: Mapping[str, Tensor], setting: Setting, name: str) -> Tensor:
    """[N]: a measure when the budget of responses was drawn, or at the end of the run."""
    sampled, values = history["sampled"], history[name]
    budget = setting.budget
    after = (sampled >= budget).int()
    place = torch.where(after.any(0), after.argmax(0), len(sampled) - 1).clamp(min=1)[None]
    x0, x1 = sampled.gather(0, place - 1), sampled.gather(0, place)
    y0, y1 = values.gather(0, place - 1), values.gather(0, place)
    share = ((budget - x0) / (x1 - x0)).clamp(0, 1)
    result: Tensor = torch.where(share < 1, y0 + share * (y1 - y0), y1)[0]
    return result


class Trial(NamedTuple):
    """What configurations are tried on."""

    task: Task
    """the same seeds again and again, once for each learning rate"""
    rates: Tensor
    """of each of them"""

    @classmethod
    def of(cls, setting: Setting, seeds: Sequence[int]) -> Trial:
        """Seeds that are not among those reported."""
        task = setting.task([seed for _ in setting.rates for seed in seeds])
        rates = torch.tensor(setting.rates, dtype=torch.float64)
        return cls(task, rates.repeat_interleave(len(seeds)))


def tune(
    make: Callable[..., Recipe], choices: Sequence[Options], setting: Setting, trial: Trial
) -> list[tuple[Config, tuple[float, float]]]:
    """Every configuration with its mean scores when the budget was drawn.

    Args:
        make: makes the recipe from options.
        choices: hyper-parameters; each is tried at every learning rate.
        setting: how the task is trained on.
        trial: the task of the tuning seeds.
    """
    found = []
    for options in choices:
        history = run(make, options, setting, trial.task, trial.rates, points=8)
        first, second = (
            final(history, setting, score).view(len(setting.rates), -1).mean(-1).tolist()
            for score in setting.scores
        )
        found += [
            (Config(options, rate), scores)
            for rate, scores in zip(setting.rates, zip(first, second, strict=True), strict=True)
        ]
    return found


def held_out(task: Task, policy: Policy) -> dict[str, Tensor]:
    """held_out@64: pass@64 on the prompts held out, [N]."""
    success = policy.mean(task.correct.double())[:, task.training :]
    return {"held_out@64": pass_at_k(success, (64,))[..., 0].mean(-1)}
