"""What the autograd functions of this package share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

__all__ = ["first_order"]

Backward = Callable[..., tuple[Tensor | None, ...]]


class _NoDoubleBackward(torch.autograd.Function):
    """The gradient, tied to what it depends on by a node that refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, name: str, gradient: Tensor, *sources: Tensor) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(f"{ctx.name} has no double backward: call backward without create_graph")


def first_order(name: str) -> Callable[[Backward], Backward]:
    """Decorator of a Function's backward: recorded with create_graph, its result raises when
    differentiated, also where no upstream gradient requires one and autograd would see a constant.

    Args:
        name: of the public function, for the error.
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
