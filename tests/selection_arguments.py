"""Good arguments of every token function, by name, to be spoiled one at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import entropy_ext
from entropy_ext import CovarianceMoments, TokenStats

SHAPE = (2, 3)


def real(device: torch.device) -> Tensor:
    return torch.full(SHAPE, 0.5, device=device)


def flags(device: torch.device) -> Tensor:
    return torch.ones(SHAPE, dtype=torch.bool, device=device)


def ids(device: torch.device) -> Tensor:
    return torch.arange(6, device=device).view(SHAPE)


def arguments_of(function: str, device: torch.device) -> dict[str, Any]:
    """Good arguments of each function, by name."""
    x = real(device)
    per_function: dict[str, dict[str, Any]] = {
        "covariance": {"logp": -x, "advantages": x, "mask": flags(device)},
        "update": {"logp": -x, "advantages": x, "mask": flags(device)},
        "clip_cov": {
            "cov": x,
            "mask": flags(device),
            "clipped": flags(device),
            "token_ids": ids(device),
            "seed": 0,
        },
        "kl_cov": {"cov": x, "mask": flags(device), "token_ids": ids(device)},
        "top_entropy": {"entropy": x, "mask": flags(device), "token_ids": ids(device)},
        "entropy_change": {
            "stats": TokenStats(-x, x, x, collision=x, collision_logp=-x),
            "advantages": x,
            "ratio": x,
        },
        "steer_weights": {
            "logp": -x,
            "old_logp": -x,
            "entropy": x,
            "advantages": x,
            "mask": flags(device),
            "collision": x,
            "collision_logp": -x,
            "form": "exact",
        },
        "policy_stats": {
            "logits": torch.zeros(*SHAPE, 5, device=device),
            "tokens": torch.zeros(SHAPE, dtype=torch.int64, device=device),
            "advantages": x,
            "mask": flags(device),
            "old_logp": -x,
            "token_ids": ids(device),
        },
    }
    return per_function[function]


def call(function: str, device: torch.device, **changed: Any) -> Any:
    arguments = arguments_of(function, device) | changed
    if function == "update":
        return CovarianceMoments().update(**arguments)
    return getattr(entropy_ext, function)(**arguments)


FUNCTIONS = (
    "covariance",
    "update",
    "clip_cov",
    "kl_cov",
    "top_entropy",
    "entropy_change",
    "steer_weights",
    "policy_stats",
)
TENSORS = {
    function: [
        name
        for name, value in arguments_of(function, torch.device("cpu")).items()
        if isinstance(value, Tensor)
    ]
    for function in FUNCTIONS
}
