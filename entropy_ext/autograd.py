"""Helpers shared by the autograd functions of this package."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["first_order", "refuse_forward_mode", "refuse_other_leaves"]

Backward = Callable[..., tuple[Tensor | None, ...]]


class _NoDoubleBackward(torch.autograd.Function):
    """Ties the gradient to the tensors it depends on; differentiating it again raises an error."""

    @staticmethod
    def forward(ctx: Any, name: str, gradient: Tensor, *sources: Tensor) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(f"{ctx.name} has no double backward: call backward without create_graph")


def first_order(name: str) -> Callable[[Backward], Backward]:
    """Decorator for the backward of an autograd Function that refuses double backward.

    Its result raises an error if it is differentiated under create_graph, even where no upstream
    gradient requires grad and autograd would treat it as a constant.

    Args:
        name: the public function, for the error message.
    """

    def decorate(backward: Backward) -> Backward:
        @wraps(backward)
        def run(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            recorded = torch.is_grad_enabled()
            sources: list[Tensor] = []
            if recorded:
                sources = [x for x in (*ctx.saved_tensors, *grads) if x is not None]
                sources = [x for x in sources if x.requires_grad]
            with torch.no_grad():
                results = backward(ctx, *grads)
            if not recorded:
                return results
            return tuple(
                None if g is None else _NoDoubleBackward.apply(name, g, *sources)  # type: ignore[no-untyped-call]
                for g in results
            )

        return run

    return decorate


def refuse_forward_mode(name: str, *tensors: Tensor | None) -> None:
    """Raise RuntimeError for a forward-mode tangent, which PyTorch's custom operators would drop.

    Args:
        name: the public function, for the error message.
    """
    if torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise RuntimeError(
                f"{name} has no forward-mode derivative: differentiate it backward, with "
                "torch.autograd rather than jvp or jacfwd"
            )


def refuse_other_leaves(loss: Tensor, leaves: list[Tensor]) -> None:
    """Raise an error if the loss depends on another tensor whose gradient would be lost."""
    known = {id(leaf) for leaf in leaves}
    seen, pending = set(), [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in known:
            raise ValueError(
                "token_loss: expected a loss of stats alone; it depends on another tensor that "
                f"requires a gradient, of shape {list(variable.shape)}: detach it"
            )
        pending.extend(parent for parent, _ in node.next_functions)
