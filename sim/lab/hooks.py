"""What a recipe's hooks say of one seed, in tensors by name."""

from __future__ import annotations

import torch

from entropy_ext import TokenStats
from entropy_ext.recipes import Recipe, Targets
from entropy_ext.rl import Rollout
from sim.lab.held import Named

__all__ = ["kept", "learn", "shaped", "targets"]


def shaped(recipe: Recipe, rollout: Rollout) -> Named:
    """rewards [B]."""
    return {"rewards": recipe.shape_rewards(rollout)}


def kept(recipe: Recipe, rollout: Rollout) -> Named:
    """keep [B] bool."""
    return {"keep": recipe.keep(rollout)}


def targets(recipe: Recipe, rollout: Rollout) -> Named:
    """advantages [B, T], and returns if there are any."""
    found = recipe.targets(rollout)
    return {name: value for name, value in found._asdict().items() if value is not None}


def learn(
    recipe: Recipe, rollout: Rollout, goals: Named, old: Named, new: Named, *, pretrains: bool
) -> Named:
    """loss, 0-d, of one optimizer step; tokens, clip_low, clip_high as far as the recipe counts.

    Args:
        recipe: of the seed.
        rollout: its mini-batch.
        goals: what `targets` gave.
        old: statistics of the policy that wrote.
        new: those of the policy in training, and predicted [B, T] where a critic is.
        pretrains: the critic learns alone.
    """
    aims, policy = Targets(**goals), dict(new)
    predicted = policy.pop("predicted", None)
    before = old if recipe.statistics == "rollout" else policy
    known = {name: value.detach() for name, value in before.items()}
    told = None if recipe.statistics == "micro" else TokenStats(**known)
    plan = recipe.prepare(told, rollout, aims)
    losses, found = [], {}
    if not pretrains:
        loss, metrics = recipe.token_loss(TokenStats(**policy), rollout, aims, plan)
        losses.append(plan.aggregate(loss))
        for name in {"tokens", "clip_low", "clip_high"} & metrics.keys():
            found[name] = torch.as_tensor(metrics[name], dtype=torch.float64)
    if predicted is not None:
        losses.append(plan.aggregate(recipe.value_loss(predicted, rollout, aims).loss))
    return {**found, "loss": torch.stack(losses).sum()}
