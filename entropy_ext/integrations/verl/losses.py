"""Recipes as policy losses of verl's registry."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.integrations.verl.coverage import PREFIX, check_covered, route
from entropy_ext.integrations.verl.settings import check_settings
from entropy_ext.recipes import Recipe, Targets
from entropy_ext.rl import Rollout
from entropy_ext.rl.losses import log_ratio

__all__ = ["PolicyLoss", "means", "policy_loss", "without_correct"]

PolicyLoss = Callable[..., tuple[Tensor, dict[str, Any]]]


def policy_loss(recipe: Recipe) -> PolicyLoss:
    """A function with verl's policy-loss signature that computes the recipe's loss.

    The loss per token is the recipe's, with the recipe's bounds: actor.clip_ratio and similar
    settings are not read. verl's `agg_loss` averages it, so micro-batches and ranks add up as
    usual.

    Gradient flows to log_prob, as in the recipe's loss.

    Args:
        recipe: any recipe. For one that needs the actor hook, the function raises an error if it is
            called without the hook; for one that cannot run in verl, it names what is missing.
    """
    recipe = without_correct(recipe)

    def loss(
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        agg_loss = importlib.import_module("verl.trainer.ppo.core_algos").agg_loss

        check_covered(recipe)
        if route(recipe) == "actor hook":
            raise RuntimeError(
                f"policy loss {PREFIX}{recipe.name} needs the actor hook: register() must run in "
                "the actor's process before its engine is built"
            )
        check_settings(recipe, config, loss_agg_mode)
        mask = response_mask.bool()
        targets = Targets(advantages)
        rollout = _seen_by_loss(old_log_prob, mask)
        plan = recipe.prepare(None, rollout, targets)
        unknown = torch.full_like(log_prob, torch.nan)
        stats = TokenStats(log_prob, entropy=unknown, lse=unknown)
        values, metrics = recipe.token_loss(stats, rollout, targets, plan)
        if rollout_is_weights is not None:
            values = torch.where(mask, values * rollout_is_weights, 0.0)
        batch = {} if config is None else config.global_batch_info
        log_rho, _ = log_ratio(log_prob.detach(), old_log_prob, mask)
        named = {**means(metrics), "actor/ppo_kl": -log_rho.sum() / mask.sum().clamp(min=1)}
        return agg_loss(values, mask, loss_agg_mode, **batch), named

    loss.__name__ = f"entropy_ext_{recipe.name}"
    return loss


def without_correct(recipe: Recipe) -> Recipe:
    """A copy whose loss does not need Rollout.correct; only advantages and filters use that."""
    recipe = copy.copy(recipe)
    recipe.needs = recipe.needs - {"correct"}
    return recipe


def means(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums over tokens → means over tokens, under verl's name if it has the same metric."""
    tokens = metrics["tokens"].clamp(min=1)
    named = {f"actor/{name}": value / tokens for name, value in metrics.items() if name != "tokens"}
    if "clip_low" in metrics:
        named["actor/pg_clipfrac"] = (metrics["clip_low"] + metrics["clip_high"]) / tokens
    if "dual_clip" in metrics:
        named["actor/pg_clipfrac_lower"] = named.pop("actor/dual_clip")
    return named


def _seen_by_loss(old_logp: Tensor, mask: Tensor) -> Rollout:
    """A rollout with the arguments of verl's signature; these losses need no other fields."""
    rows = torch.zeros(len(mask), device=mask.device)
    return Rollout(
        tokens=torch.zeros_like(mask, dtype=torch.int64),
        mask=mask,
        rewards=rows,
        prompt=rows.long(),
        old_logp=old_logp,
        max_length=max(1, mask.shape[1]),
        step=0,
        progress=0.0,
    )
