"""One row of tokens through a token loss, in float64: values, gradients, metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl import TokenLoss


class Run(NamedTuple):
    loss: list[float]
    gradient: list[float]
    metrics: dict[str, float]


def row(values: Sequence[float] | float, like: int | None = None) -> Tensor:
    """[1, T] float64; a number is repeated `like` times."""
    values = [values] * like if isinstance(values, (int, float)) and like else values
    return torch.tensor([values], dtype=torch.float64)


def run(
    token_loss: Callable[..., TokenLoss],
    logp: Sequence[float],
    advantages: Sequence[float] | float,
    *,
    old: Sequence[float] | float | None = None,
    ratio: Sequence[float] | float | None = None,
    mask: Sequence[int] | None = None,
    **options: object,
) -> Run:
    """The loss of one row; old_logp is given, or follows from the ratio, or is logp itself."""
    new = row(logp).requires_grad_()
    size = new.shape[1]
    if ratio is not None:
        old_logp = new.detach() - row(ratio, size).log()
    else:
        old_logp = new.detach() if old is None else row(old, size)
    kept = torch.tensor([mask or [1] * size], dtype=torch.bool)
    loss, metrics = token_loss(new, old_logp, row(advantages, size), kept, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    return Run(
        loss[0].tolist(),
        gradient[0].tolist(),
        {name: value.item() for name, value in metrics.items()},
    )


def check_edges(token_loss: Callable[..., TokenLoss], **options: object) -> None:
    """Empty masks, NaN in padding, impossible tokens, no gradient elsewhere, no host sync.

    Tensors among the options are [1, 3]; they may hold NaN where the mask is False.
    """
    nan, inf = torch.nan, torch.inf
    mask = torch.tensor([[True, True, False]])
    for new, old in ((-inf, -1.0), (-1.0, -inf), (nan, -1.0), (-inf, -inf), (-1.0, nan)):
        logp = torch.tensor([[new, -1.0, nan]], requires_grad=True)
        old_logp = torch.tensor([[old, -1.1, nan]], requires_grad=True)
        advantages = torch.tensor([[1.0, 1.0, nan]], requires_grad=True)
        loss, metrics = token_loss(logp, old_logp, advantages, mask, **options)
        assert loss.isfinite().all()
        assert loss[0, 2] == 0
        loss.sum().backward()
        assert logp.grad is not None
        assert logp.grad[0, 0] == 0
        assert logp.grad[0, 1].isfinite()
        assert logp.grad[0, 1] != 0
        assert logp.grad[0, 2] == 0
        assert old_logp.grad is None
        assert advantages.grad is None
        assert metrics["nonfinite_logp"] == 1
        assert metrics["tokens"] == 2
        assert all(x.isfinite() and x.ndim == 0 for x in metrics.values())

    everything = torch.full((2, 3), nan, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    several = {n: x.expand(2, 3) if isinstance(x, Tensor) else x for n, x in options.items()}
    loss, metrics = token_loss(everything, everything, everything.detach(), nothing, **several)
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(2, 3))
    assert everything.grad is not None
    assert torch.equal(everything.grad, torch.zeros(2, 3))
    assert all(x == 0 for x in metrics.values())

    with FakeTensorMode():
        logp, other = torch.empty(1, 3, requires_grad=True), torch.empty(1, 3)
        faked = {
            n: torch.empty(1, 3, dtype=x.dtype) if isinstance(x, Tensor) else x
            for n, x in options.items()
        }
        loss, metrics = token_loss(logp, other, other, torch.empty(1, 3, dtype=torch.bool), **faked)
        loss.sum().backward()
        assert all(x.ndim == 0 and not x.requires_grad for x in metrics.values())
