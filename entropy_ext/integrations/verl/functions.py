"""Replaces verl's functions of logits by entropy_ext's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from entropy_ext import token_stats
from entropy_ext.inplace import check_inplace
from entropy_ext.integrations.verl.installed import require_verl

__all__ = ["replace_token_functions", "restore_token_functions"]

_replaced: list[tuple[ModuleType, str, Any]] = []


def replace_token_functions() -> None:
    """Makes verl compute log-probabilities, entropies and Σp² with `token_stats`.

    Results are float32 for logits of any dtype, and finite for logits of −inf; each function reads
    the logits once. Call this before verl builds its engines, which keep a reference to the entropy
    function. A second call does nothing.

    Gradient flows to the logits through log-probabilities and entropies; Σp² has none.
    """
    require_verl()
    if _replaced:
        return
    functional = importlib.import_module("verl.utils.torch_functional")
    ours = {getattr(functional, name): function for name, function in _FUNCTIONS.items()}
    # Other modules have imported the functions by name.
    verl = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "verl"]
    for module in verl:
        for name, value in list(vars(module).items()):
            if isinstance(value, Callable) and value in ours:  # type: ignore[arg-type]
                _replaced.append((module, name, value))
                setattr(module, name, ours[value])


def restore_token_functions() -> None:
    """Undo `replace_token_functions`."""
    while _replaced:
        module, name, value = _replaced.pop()
        setattr(module, name, value)


def _log_probs(logits: Tensor, labels: Tensor, inplace_backward: bool = False) -> Tensor:
    # verl's default is True, even where it reads the logits afterwards, so only explicit requests
    # count.
    return token_stats(
        logits, labels, inplace_backward=inplace_backward and _may_overwrite(logits)
    ).logp


def _entropy(logits: Tensor) -> Tensor:
    return token_stats(logits, _any_token(logits)).entropy


def _chunked_entropy(logits: Tensor, chunk_size: int = 2048) -> Tensor:
    # Chunks would save nothing, because the logits are not copied.
    return _entropy(logits)


@torch.no_grad()
def _sum_pi_squared(logits: Tensor) -> Tensor:
    collision = token_stats(logits, _any_token(logits), extras=True).collision
    assert collision is not None
    return collision


def _any_token(logits: Tensor) -> Tensor:
    return torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)


def _may_overwrite(logits: Tensor) -> bool:
    if not (torch.is_grad_enabled() and logits.requires_grad) or torch.compiler.is_compiling():
        return False
    try:
        check_inplace(logits, supported=False)
    except ValueError:
        return False
    return True


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "logprobs_from_logits": _log_probs,
    "entropy_from_logits": _entropy,
    "entropy_from_logits_with_chunking": _chunked_entropy,
    "calculate_sum_pi_squared_from_logits": _sum_pi_squared,
}
