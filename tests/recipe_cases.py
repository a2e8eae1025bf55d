"""A recipe on a rollout written out by hand, from log-probabilities rather than logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.recipes import Plan, Recipe, Targets
from entropy_ext.rl import Rollout


def table(rows: Any) -> Tensor:
    """A nested list as float64."""
    return torch.tensor(rows, dtype=torch.float64)


def case(mask: Any, **fields: Any) -> Rollout:
    """A rollout of that mask [B, T], one group, on policy at logp = −1 unless said otherwise."""
    mask = torch.tensor(mask, dtype=torch.bool)
    rows = len(mask)
    given: dict[str, Any] = {
        "tokens": torch.zeros(mask.shape, dtype=torch.int64),
        "mask": mask,
        "rewards": torch.zeros(rows, dtype=torch.float64),
        "prompt": torch.zeros(rows, dtype=torch.int64),
        "old_logp": torch.full(mask.shape, -1.0, dtype=torch.float64),
        "max_length": mask.shape[1],
        "step": 0,
        "progress": 0.0,
    }
    return Rollout(**(given | fields))


class Step(NamedTuple):
    loss: float
    gradient: Tensor
    metrics: dict[str, float]
    targets: Targets
    plan: Plan


def step(
    recipe: Recipe,
    rollout: Rollout,
    logp: Any = None,
    *,
    entropy: Any = None,
    advantages: Any = None,
    support_logp: Tensor | None = None,
) -> Step:
    """One optimizer step's loss and its gradient in logp [B, T].

    logp is old_logp unless given; the advantages are the recipe's own unless given.
    """
    logp = (rollout.old_logp.clone() if logp is None else table(logp)).requires_grad_()
    entropy = torch.ones_like(logp) if entropy is None else table(entropy)
    stats = TokenStats(logp, entropy, torch.zeros_like(logp))
    rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
    targets = recipe.targets(rollout)
    if advantages is not None:
        targets = Targets(table(advantages))
    fixed = TokenStats(logp.detach(), entropy, stats.lse)
    plan = recipe.prepare(fixed, rollout, targets)
    if support_logp is not None:
        stats = stats._replace(support_logp=support_logp)
    loss, metrics = recipe.token_loss(stats, rollout, targets, plan)
    total = plan.aggregate(loss)
    wanted = logp if support_logp is None else support_logp
    (gradient,) = torch.autograd.grad(total, wanted)
    seen = {name: value.item() for name, value in metrics.items()}
    return Step(total.item(), gradient, seen, targets, plan)


def assert_same(one: Recipe, other: Recipe, **changes: Any) -> None:
    """Both recipes have the same loss and gradient on a rollout with clipped tokens."""
    from tests.recipe_runs import loss, make_logits, make_rollout, prepare

    results = []
    for recipe in (one, other):
        logits = make_logits().requires_grad_()
        prepared = prepare(recipe, logits, make_rollout(**changes))
        total = loss(recipe, logits, prepared)
        (gradient,) = torch.autograd.grad(total, logits)
        results.append((total.detach(), gradient))
    assert results[0][1].abs().max() > 0
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
