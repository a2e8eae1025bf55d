"""Settings that both GRPOConfig and a recipe determine."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from entropy_ext import recipes
from entropy_ext.integrations.trl.installed import GRPOConfig
from entropy_ext.recipes import Recipe

__all__ = ["LEFT_TO_RECIPE", "checked_config", "config_arguments", "configured_recipe"]

LEFT_TO_RECIPE = (
    *("loss_type", "epsilon", "epsilon_high", "delta", "importance_sampling_level"),
    *("sapo_temperature_neg", "sapo_temperature_pos"),
    *("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
    *("scale_rewards", "multi_objective_aggregation", "top_entropy_quantile"),
    *("entropy_coef", "use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max"),
    *("entropy_coef_delta", "entropy_target", "off_policy_mask_threshold"),
    "use_bias_correction_kl",
)
"""settings of TRL's losses and advantages, which a recipe replaces"""


def config_arguments(recipe: Recipe, *, gradient_accumulation_steps: int = 1) -> dict[str, Any]:
    """Arguments for GRPOConfig, so that TRL samples and steps as in the recipe's paper.

    GRPOConfig(output_dir, max_completion_length=2048, **config_arguments(recipes.get("dapo"))).
    One training step of the recipe is one generation, with steps_per_generation /
    gradient_accumulation_steps optimizer steps per epoch and num_iterations epochs.
    """
    sampling = recipe.sampling
    return {
        "num_generations": sampling.group_size,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0 if sampling.top_k is None else sampling.top_k,
        "num_iterations": recipe.epochs,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "steps_per_generation": recipe.minibatches * gradient_accumulation_steps,
    }


def configured_recipe(recipe: str | Recipe, args: GRPOConfig) -> Recipe:
    """The recipe, configured for TRL's sampling; a given Recipe is copied.

    Raises:
        ValueError: an unknown name; a recipe made for another top_p or top_k.
    """
    top_k = args.top_k if args.top_k > 0 else None
    sampler = {"group_size": args.num_generations, "temperature": args.temperature}
    cut = {"top_p": args.top_p, "top_k": top_k}
    if isinstance(recipe, str):
        usual = recipes.get(recipe).sampling
        return recipes.get(recipe, sampling=dataclasses.replace(usual, **sampler, **cut))
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe: expected a name or a Recipe, got {recipe!r}")
    # A recipe may train differently if the sampler leaves tokens out, so it must know that when it
    # is constructed.
    own = {"top_p": recipe.sampling.top_p, "top_k": recipe.sampling.top_k}
    if own != cut:
        raise ValueError(
            f"recipe {recipe.name}: was made for {own}, and the GRPOConfig samples with {cut}: "
            "give the recipe a sampling=Sampling(...) that matches"
        )
    recipe = copy.deepcopy(recipe)
    recipe.sampling = dataclasses.replace(recipe.sampling, **sampler)
    return recipe


def checked_config(recipe: Recipe, args: GRPOConfig) -> GRPOConfig:
    """A copy of the settings that makes TRL supply what the recipe needs.

    Raises:
        ValueError: a setting that would have no effect beside the recipe, or that contradicts it.
    """
    default = {field.name: field.default for field in dataclasses.fields(GRPOConfig)}
    changed = [name for name in LEFT_TO_RECIPE if getattr(args, name) != default[name]]
    if changed:
        raise ValueError(
            f"{', '.join(changed)}: set in the GRPOConfig, but recipe {recipe.name} has its own "
            "loss and advantages: leave the default and give the recipe's options instead"
        )
    if args.beta not in (0.0, recipe.kl_coef):
        raise ValueError(
            f"beta: expected 0 or recipe {recipe.name}'s kl_coef={recipe.kl_coef}, got {args.beta}"
        )
    if args.steps_per_generation % args.gradient_accumulation_steps:
        raise ValueError(
            f"steps_per_generation: expected a multiple of gradient_accumulation_steps="
            f"{args.gradient_accumulation_steps}, got {args.steps_per_generation}: an optimizer "
            "step must not need responses that do not exist yet"
        )
    if args.max_completion_length is None:
        raise ValueError("max_completion_length: expected a number with a recipe, got None")
    twice = recipe.corrects_sampler and args.use_vllm
    if twice and args.vllm_importance_sampling_correction:
        raise ValueError(
            f"vllm_importance_sampling_correction: recipe {recipe.name} corrects for the sampler "
            "itself: set it to False"
        )
    args = copy.copy(args)
    if "ref_logp" in recipe.needs:
        # TRL keeps a reference model if beta is not 0; nothing else here reads beta.
        args.beta = recipe.kl_coef or 1.0
    return args
