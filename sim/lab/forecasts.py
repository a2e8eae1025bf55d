"""How good the entropy changes are that methods foretell, along a training run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from entropy_ext.recipes import Recipe
from sim.lab.exact import mean_token_entropy
from sim.lab.foretold import Foretold, foretell
from sim.lab.harness import Trainer
from sim.lab.sampler import Draw, sample
from sim.lab.statistics import rank_correlation
from sim.lab.tables import Table, Tables
from sim.lab.task import Task

__all__ = ["batch_ranks", "forecasts", "token_means"]


def forecasts(
    task: Task,
    recipe: Callable[[], Recipe],
    *,
    steps: int,
    learning_rate: float,
    lag: int,
    eta: float,
) -> Tables:
    """Every batch of a run, token by token, as it is drawn and after more steps.

    Args:
        task: of N seeds; every prompt is drawn in each step.
        recipe: that trains, on policy.
        steps, learning_rate: of the run.
        lag: steps after which a batch is looked at again.
        eta: see `foretell`.

    Returns:
        tokens: estimate, age, step, seed, rank, sign: rank correlation of estimate and measured
            change over the tokens of a batch, and share of right signs; NaN without advantages.
        batches: estimate, step, seed, foretold, measured: the sum of the estimates of a batch, and
            what the step on it did to the policy's entropy; nats.
    """
    trainer = Trainer(task, recipe, steps=steps, learning_rate=learning_rate)
    weights = torch.ones(len(task.seeds), task.prompts, dtype=torch.float64)
    batches, tokens, totals = [], [], []
    for at in range(steps):
        logits = task.logits(trainer.parameters.detach())
        # The very responses that the trainer is about to draw.
        place, sampling = Draw(at, 0.0, 0, None), trainer.kind.sampling
        batches.append(
            sample(task, logits, logits, weights, place, sampling=sampling, groups=task.prompts)
        )
        before = mean_token_entropy(trainer.policy)
        trainer.step()
        change = mean_token_entropy(trainer.policy) - before
        for age in (0, lag) if at >= lag else (0,):
            found = foretell(task, batches[at - age], logits, eta=eta)
            for name, values in found.estimates.items():
                for n in range(len(task.seeds)):
                    tokens.append((name, age, at, n, *_agreement(found, name, n)))
                if age == 0:
                    sums = torch.where(found.mask, values, 0.0).sum((-2, -1))
                    pairs = zip(sums.tolist(), change.tolist(), strict=True)
                    totals += [(name, at, n, *pair) for n, pair in enumerate(pairs)]
    return {
        "tokens": Table.of(("estimate", "age", "step", "seed", "rank", "sign"), tokens),
        "batches": Table.of(("estimate", "step", "seed", "foretold", "measured"), totals),
    }


def token_means(tables: Tables, column: str, name: str, age: int = 0) -> list[float]:
    """For each seed the mean of "rank" or "sign" over its batches that have advantages."""
    found = []
    for values in tables["tokens"].each_seed(column, estimate=name, age=age):
        known = [v for v in values if not math.isnan(v)]
        found.append(math.fsum(known) / len(known))
    return found


def batch_ranks(tables: Tables, name: str) -> list[float]:
    """For each seed the rank correlation over batches of Σ estimates and the policy's ΔH."""
    sides = (tables["batches"].each_seed(c, estimate=name) for c in ("foretold", "measured"))
    return list(map(rank_correlation, *sides))


def _agreement(found: Foretold, name: str, seed: int) -> tuple[float, float]:
    """Rank correlation with what was measured, share of right signs; NaN without advantages."""
    mask = found.mask[seed]
    foretold, measured = found.estimates[name][seed][mask], found.measured[seed][mask]
    if len(measured) == 0:
        return math.nan, math.nan
    same = (foretold.sign() == measured.sign()).double().mean()
    return rank_correlation(foretold.tolist(), measured.tolist()), float(same)
