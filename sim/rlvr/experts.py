"""Two experts in place of each feed-forward layer, and their routing recorded and replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

__all__ = ["FREE", "RoutedMLP", "add_experts", "replayed", "routes"]

FREE = -1
"""In a routing to replay: let the router choose."""


class RoutedMLP(nn.Module):
    """Each token goes through the one expert its router finds likeliest: y = pₑ(x)·MLPₑ(x).

    Gradient flows to the router through pₑ, replayed or not; the choice itself has none.

    Switch Transformers (arXiv 2101.03961, eq. 2). All experts are computed and one is taken, for
    they are few and small.
    """

    def __init__(self, config: LlamaConfig, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(config.hidden_size, experts, bias=False)
        self.experts = nn.ModuleList(LlamaMLP(config) for _ in range(experts))  # type: ignore[no-untyped-call]
        self.replay: Tensor | None = None
        """[B, L] int64: experts to use, FREE where the router is to choose"""
        self.chosen: Tensor | None = None
        """[B, L] int64: what the last forward pass used"""

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, L, H] → [B, L, H]"""
        p = self.router(hidden).softmax(-1)
        chosen = p.argmax(-1)
        if self.replay is not None:
            chosen = torch.where(self.replay == FREE, chosen, self.replay)
        self.chosen = chosen
        outputs = torch.stack([expert(hidden) for expert in self.experts], dim=-1)
        taken = outputs.take_along_dim(chosen[..., None, None], dim=-1).squeeze(-1)
        weighted: Tensor = p.gather(-1, chosen[..., None]) * taken
        return weighted


def add_experts(model: LlamaForCausalLM, experts: int) -> None:
    """Replace every feed-forward layer by freshly initialised experts and a router."""
    for layer in model.model.layers:
        layer.mlp = RoutedMLP(model.config, experts)
        for module in layer.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=model.config.initializer_range)


def routes(model: LlamaForCausalLM) -> Tensor | None:
    """[B, L, layers] int64: the experts of the last forward pass; None without experts."""
    chosen = [layer.chosen for layer in _routed(model) if layer.chosen is not None]
    return torch.stack(chosen, dim=-1) if chosen else None


@contextmanager
def replayed(model: LlamaForCausalLM, routing: Tensor | None) -> Iterator[None]:
    """Within it the model's forward passes take the experts of `routing`, [B, L, layers].

    None, or FREE at a token, leaves the choice to the router.
    """
    layers = _routed(model)
    if routing is not None and routing.shape[-1] != len(layers):
        raise ValueError(
            f"routing: expected {len(layers)} routed layer(s), got {routing.shape[-1]}"
        )
    try:
        for at, layer in enumerate(layers):
            layer.replay = None if routing is None else routing[..., at]
        yield
    finally:
        for layer in layers:
            layer.replay = None


def _routed(model: LlamaForCausalLM) -> list[RoutedMLP]:
    return [layer.mlp for layer in model.model.layers if isinstance(layer.mlp, RoutedMLP)]
