"""Problems of the chunked head, and the ways to its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from entropy_ext import TokenStats, linear_token_loss, linear_token_stats, token_stats

B, T, D, V = 3, 7, 24, 501


def draw(dtype: torch.dtype, device: torch.device, seed: int = 0) -> dict[str, Any]:
    """Hidden states whose logits are as peaked as a language model's; masked ones hold NaN."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.rand(B, T, generator=generator) < 0.8
    hidden = torch.where(mask[..., None], normal(B, T, D), torch.nan)
    arguments = {
        "hidden": hidden.to(dtype),
        "weight": (0.7 * normal(V, D)).to(dtype),
        "bias": normal(V).to(dtype),
        "tokens": torch.randint(V, (B, T), generator=generator),
        "temperature": (0.5 + torch.rand(B, T, generator=generator)).to(
            torch.float64 if dtype == torch.float64 else torch.float32
        ),
        "mask": mask,
    }
    return {name: value.to(device) for name, value in arguments.items()}


def upstream(stats: TokenStats) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients that differ from token to token and from output to output."""
    ramp = torch.linspace(-1, 2, stats.logp.numel(), dtype=stats.logp.dtype).to(stats.logp.device)
    ramp = ramp.view(stats.logp.shape)
    return ramp, ramp.flip(0) - 0.3, ramp.square()


def whole(arguments: dict[str, Any], dtype: torch.dtype | None = None, **options: Any) -> Any:
    """Stats from all logits at once, and gradients of hidden, weight, bias; in `dtype`."""
    leaves = {
        name: arguments[name].detach().to(dtype or arguments[name].dtype).requires_grad_()
        for name in ("hidden", "weight", "bias")
    }
    clean = torch.where(arguments["mask"][..., None], leaves["hidden"], 0.0)
    logits = clean @ leaves["weight"].T + leaves["bias"]
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    tau = arguments["temperature"].to(wide)
    stats = token_stats(
        logits, arguments["tokens"], temperature=tau, mask=arguments["mask"], **options
    )
    torch.autograd.backward(tuple(stats[:3]), upstream(stats))
    return stats, [leaf.grad for leaf in leaves.values()]


def chunked(arguments: dict[str, Any], chunk: int | None, **options: Any) -> Any:
    """The same by linear_token_stats."""
    leaves = {
        name: arguments[name].detach().clone().requires_grad_()
        for name in ("hidden", "weight", "bias")
    }
    stats = linear_token_stats(**(arguments | leaves), chunk_tokens=chunk, **options)
    torch.autograd.backward(tuple(stats[:3]), upstream(stats))
    return stats, [leaf.grad for leaf in leaves.values()]


def upstream_loss(arguments: dict[str, Any]) -> Callable[[TokenStats, slice], Tensor]:
    """The token loss whose gradients are `upstream`."""
    grads = [g.flatten() for g in upstream(TokenStats(*(arguments["temperature"],) * 3))]

    def token_loss(stats: TokenStats, rows: slice) -> Tensor:
        return sum(x * g[rows] for x, g in zip(stats[:3], grads, strict=True))

    return token_loss


def by_loss(arguments: dict[str, Any], chunk: int | None, scale: float = 1.0) -> Any:
    """Gradients by linear_token_loss, of the loss whose gradients are `upstream`."""
    leaves = {
        name: arguments[name].detach().clone().requires_grad_()
        for name in ("hidden", "weight", "bias")
    }
    loss, stats = linear_token_loss(
        **(arguments | leaves), token_loss=upstream_loss(arguments), chunk_tokens=chunk
    )
    (scale * loss).backward()
    return loss, stats, [leaf.grad for leaf in leaves.values()]


def assert_close(ours: list[Tensor], truth: list[Tensor], allowed: float) -> None:
    """Within `allowed` of the largest entry of each tensor."""
    for a, b in zip(ours, truth, strict=True):
        error = float((a.detach().double() - b.detach().double()).abs().max())
        assert error <= allowed * max(1.0, float(b.detach().abs().max()))
