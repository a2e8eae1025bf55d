"""What a model thinks of responses that are there, without gradient, a micro-batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from entropy_ext import Support, TokenStats
from sim.rlvr.model import Critic, response_stats

__all__ = ["Scorer"]


class Scorer:
    """Statistics and values, at the temperature and in the sizes of one run.

    Args:
        temperature: of the policy.
        micro_batch: most sequences in one forward pass.
        extras: see `token_stats`.
        chunked_head: never hold the logits of all tokens at once.
        chunk_tokens: see `linear_token_stats`.
    """

    def __init__(
        self,
        *,
        temperature: float,
        micro_batch: int,
        extras: bool,
        chunked_head: bool = False,
        chunk_tokens: int | None = None,
    ) -> None:
        self.temperature = temperature
        self.micro_batch = micro_batch
        self.extras = extras
        self.chunked_head = chunked_head
        self.chunk_tokens = chunk_tokens

    def slices(self, size: int) -> Iterator[slice]:
        """Micro-batches of `size` sequences."""
        return (slice(at, at + self.micro_batch) for at in range(0, size, self.micro_batch))

    @torch.no_grad()
    def stats(
        self,
        model: LlamaForCausalLM,
        prompt: Tensor,
        prompt_mask: Tensor,
        tokens: Tensor,
        mask: Tensor,
        *,
        support: Support | None = None,
        routing: Tensor | None = None,
    ) -> TokenStats:
        """`response_stats` of all responses."""
        columns = torch.arange(mask.numel()).view(mask.shape)
        parts = [
            response_stats(
                model,
                prompt[rows],
                prompt_mask[rows],
                tokens[rows],
                mask[rows],
                temperature=self.temperature,
                support=None if support is None else support.rows(columns[rows].flatten()),
                extras=self.extras,
                routing=None if routing is None else routing[rows],
                chunked_head=self.chunked_head,
                chunk_tokens=self.chunk_tokens,
            )
            for rows in self.slices(len(prompt))
        ]
        return TokenStats._make(
            None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True)
        )

    @torch.no_grad()
    def values(
        self, critic: Critic, prompt: Tensor, prompt_mask: Tensor, tokens: Tensor, mask: Tensor
    ) -> Tensor:
        """[B, T]: the critic's values of all responses."""
        parts = [
            critic(prompt[rows], prompt_mask[rows], tokens[rows], mask[rows])
            for rows in self.slices(len(prompt))
        ]
        return torch.cat(parts)
