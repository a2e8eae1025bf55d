"""Turns the data with which verl updates an actor into a rollout."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from entropy_ext.integrations.verl.coverage import PROVIDED
from entropy_ext.recipes import Recipe, Targets
from entropy_ext.rl import Rollout

__all__ = ["MiniBatch", "mini_batch", "responses"]


class MiniBatch(NamedTuple):
    """The data of one optimizer step."""

    rollout: Rollout
    targets: Targets
    importance: Tensor | None
    """[B, T] verl's rollout_is_weights, if there are any"""


def mini_batch(
    data: Any, recipe: Recipe, *, step: int, progress: float, max_length: int | None, device: Any
) -> MiniBatch:
    """Extracts the rollout and the advantages from verl's data of one mini-batch.

    Rewards and prompts are not in it and no longer needed; they are set to 0.

    Args:
        data: verl's TensorDict; responses nested, or padded on the right.
        recipe: the recipe whose fields are needed.
        step: training step, from 0.
        progress: fraction of training done.
        max_length: maximum length of a response, tokens; None: that of the longest response.
        device: device of the returned tensors.

    Raises:
        ValueError: a field that the recipe needs is missing (verl's setting for it is named), or
            there are weights for a mismatch that the recipe corrects itself.
    """
    present = set(data.keys())
    names = {"mask": "response_mask", "old_logp": "old_log_probs", "advantages": "advantages"}
    for field in sorted(recipe.needs & PROVIDED.keys()):
        names[field], setting = PROVIDED[field]
        if names[field] not in present:
            raise ValueError(
                f"recipe {recipe.name} needs Rollout.{field}: expected {names[field]} in verl's "
                f"data, set {setting}"
            )
    if "rollout_is_weights" in present:
        names["importance"] = "rollout_is_weights"
        if recipe.corrects_sampler:
            raise ValueError(
                f"recipe {recipe.name} corrects for the sampler itself: expected no "
                "rollout_is_weights in verl's data, set "
                "algorithm.rollout_correction.rollout_is=null"
            )
    padded = data.select(*names.values()).to_padded_tensor()
    found = {name: padded[key].to(device) for name, key in names.items()}
    mask = found.pop("mask").bool()
    targets = Targets(found.pop("advantages"))
    importance = found.pop("importance", None)
    rows = torch.zeros(len(mask), device=device)
    rollout = Rollout(
        tokens=torch.zeros_like(mask, dtype=torch.int64),
        mask=mask,
        rewards=rows,
        prompt=rows.long(),
        max_length=mask.shape[1] if max_length is None else max_length,
        step=step,
        progress=progress,
        **found,
    )
    return MiniBatch(rollout, targets, importance)


def responses(values: Tensor, data: Any, width: int) -> Tensor:
    """[B, width]: a model's output over whole texts, at the response tokens; padded with 0.

    Args:
        values: verl's nested tensor, or [tokens]: one number per token of prompts and responses.
        data: the micro-batch that the values belong to.
        width: width of the mini-batch.
    """
    slice_out = importlib.import_module("verl.workers.utils.padding").no_padding_2_padding
    rows: Tensor = slice_out(values, data)
    return pad(rows, (0, width - rows.shape[1]))
