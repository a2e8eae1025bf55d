"""A small rollout with every field filled, and one optimizer step of any recipe on it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from entropy_ext import token_stats
from entropy_ext.recipes import Plan, Recipe, Targets
from entropy_ext.rl import Rollout

B, T, V = 6, 4, 11


def make_rollout(dtype: torch.dtype = torch.float64, **changes: object) -> Rollout:
    """Six responses to three prompts, the third prompt with one; lengths 4, 1, 3, 2, 4, 2."""
    generator = torch.Generator().manual_seed(3)

    def normal() -> Tensor:
        return torch.randn(B, T, generator=generator, dtype=dtype)

    correct = torch.tensor([True, False, False, True, True, False])
    fields = {
        "tokens": torch.randint(0, V, (B, T), generator=generator),
        "mask": torch.arange(T) < torch.tensor([4, 1, 3, 2, 4, 2])[:, None],
        "rewards": correct.to(dtype),
        "prompt": torch.tensor([0, 1, 0, 1, 0, 2]),
        "old_logp": -2.4 + 0.3 * normal(),
        "old_entropy": 1.8 + 0.2 * normal(),
        "ref_logp": -2.4 + 0.3 * normal(),
        "rollout_logp": -2.4 + 0.3 * normal(),
        "values": 0.5 + 0.3 * normal(),
        "correct": correct,
        "answers": ["4", "7", None, "4", "4", "9"],
        "truncated": torch.tensor([False, False, True, False, False, False]),
        "teacher": torch.tensor([0, 0, 0, 0, 1, 0], dtype=torch.bool)[:, None].expand(B, T),
        "teacher_logp": -1.0 + 0.2 * normal(),
        "step_correct": torch.rand(B, T, generator=generator) < 0.5,
        "domain": torch.tensor([0, 1, 0, 1, 0, 0]),
        "max_length": T,
        "step": 0,
        "progress": 0.25,
    }
    return Rollout(**(fields | changes))  # type: ignore[arg-type]


def make_logits(dtype: torch.dtype = torch.float64) -> Tensor:
    """[B, T, V]"""
    generator = torch.Generator().manual_seed(4)
    return 1.5 * torch.randn(B, T, V, generator=generator, dtype=dtype)


def make_values(dtype: torch.dtype = torch.float64) -> Tensor:
    """[B, T]: what a value head predicts now, some way from Rollout.values."""
    return torch.rand(B, T, generator=torch.Generator().manual_seed(5), dtype=dtype)


class Prepared(NamedTuple):
    rollout: Rollout
    targets: Targets
    plan: Plan


def prepare(recipe: Recipe, logits: Tensor, rollout: Rollout) -> Prepared:
    """The hooks before the first micro-batch, in a harness's order; `keep` is not applied."""
    rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
    targets = recipe.targets(rollout)
    stats = token_stats(logits.detach(), rollout.tokens, mask=rollout.mask, extras=True)
    plan = recipe.prepare(stats, rollout, targets)
    return Prepared(rollout, targets, plan)


def loss(
    recipe: Recipe, logits: Tensor, prepared: Prepared, values: Tensor | None = None
) -> Tensor:
    """The policy's loss, and the value head's if the recipe has one, aggregated."""
    rollout, targets, plan = prepared
    stats = token_stats(logits, rollout.tokens, mask=rollout.mask, extras=True)
    total = plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)
    if values is not None and "values" in recipe.needs:
        total = total + plan.aggregate(recipe.value_loss(values, rollout, targets).loss)
    return total
