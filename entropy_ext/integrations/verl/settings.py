"""Settings of verl's actor that must agree with the recipe."""

from __future__ import annotations

from typing import Any

from entropy_ext.recipes import Recipe

__all__ = ["check_settings"]


def check_settings(recipe: Recipe, config: Any, loss_agg_mode: str) -> None:
    """Raise ValueError if verl's configuration contradicts the recipe.

    Args:
        recipe: the recipe whose loss is used.
        config: verl's ActorConfig, or None.
        loss_agg_mode: as verl passes it to a policy loss.
    """
    if loss_agg_mode != recipe.aggregation:
        raise ValueError(
            f"actor.loss_agg_mode: expected {recipe.aggregation}, which recipe {recipe.name} has, "
            f"got {loss_agg_mode}: set it, or register the recipe with aggregation={loss_agg_mode}"
        )
    if recipe.aggregation == "seq-mean-token-sum-norm" and (
        config is None or config.loss_scale_factor is None
    ):
        raise ValueError(
            "actor.loss_scale_factor: expected the longest response, tokens, got None: "
            "verl would divide by the longest of each micro-batch"
        )
