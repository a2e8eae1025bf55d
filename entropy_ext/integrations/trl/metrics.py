"""Turns sums over a micro-batch's tokens into entries of TRL's log."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from entropy_ext.recipes import Plan

__all__ = ["update_metrics"]

_TRL_NAMES = {
    "clip_low": "clip_ratio/low_mean",
    "clip_high": "clip_ratio/high_mean",
    "kl_ref": "kl",
}


@torch.no_grad()
def update_metrics(
    sums: Mapping[str, Tensor], entropy: Tensor, mask: Tensor, plan: Plan, accelerator: Accelerator
) -> dict[str, float]:
    """Metrics of one micro-batch over all ranks, by their name in the log.

    These are means over the tokens that are learned from, under TRL's name if it has the same
    metric, otherwise as recipe/…; counts of values that are not finite; the mean entropy over all
    tokens, as in TRL; and the plan's coefficients.

    Args:
        sums: metrics of a TokenLoss.
        entropy: [b, T] nats.
        mask: [b, T] bool: response tokens.
        plan: the plan of these responses.
        accelerator: of the trainer.
    """
    names = [name for name in sums if name != "tokens"]
    totals = [
        torch.where(mask, entropy, 0.0).sum(),
        mask.sum(),
        plan.mask.sum(),
        *(sums[name] for name in names),
    ]
    # The coefficients are the same on every rank.
    coefficients = [value.float() for value in plan.coefficients.values()]
    reduced = accelerator.reduce(torch.stack([x.float() for x in totals]), reduction="sum")
    values = torch.cat([reduced, torch.stack(coefficients)]) if coefficients else reduced
    entropy_sum, tokens, learnt, *rest = values.tolist()
    metrics = {"entropy": entropy_sum / max(tokens, 1.0)}
    for name, value in zip(names, rest, strict=False):
        share = value if name.startswith("nonfinite") else value / max(learnt, 1.0)
        metrics[_TRL_NAMES.get(name, f"recipe/{name}")] = share
    for name, value in zip(plan.coefficients, rest[len(names) :], strict=True):
        metrics[f"recipe/{name}_coef"] = value
    return metrics
