"""Batched sampling with a key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from entropy_ext import token_stats
from entropy_ext.recipes import Sampling
from sim.rlvr.model import position_ids
from sim.rlvr.task import CharTokenizer

__all__ = ["Samples", "keep_most_likely", "sample"]


@dataclass(frozen=True)
class Samples:
    """Responses, G to each prompt, those of a prompt side by side; padded on the right."""

    tokens: Tensor
    """[B, T] int64, T the longest response"""
    mask: Tensor
    """[B, T] bool, the end-of-sequence token included"""
    logp: Tensor
    """[B, T] as seen while sampling, of the full distribution at the sampling temperature"""
    truncated: Tensor
    """[B] bool: no end-of-sequence token within the limit"""


@torch.no_grad()
def sample(
    model: LlamaForCausalLM,
    prompt: Tensor,
    prompt_mask: Tensor,
    *,
    max_length: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> Samples:
    """Draw `sampling.group_size` responses to every prompt.

    Args:
        model: the policy.
        prompt: [N, P] int64, padded on the left.
        prompt_mask: [N, P] bool.
        max_length: longest response, tokens.
        sampling: group size, temperature, top_p and top_k.
        generator: source of all randomness.
    """
    pad, eos, group = CharTokenizer.pad, CharTokenizer.eos, sampling.group_size
    cache = DynamicCache(config=model.config)
    logits = model(
        input_ids=prompt,
        attention_mask=prompt_mask.long(),
        position_ids=position_ids(prompt_mask),
        past_key_values=cache,
        logits_to_keep=1,
    ).logits[:, -1]
    # The prompts are read once, and their cache is then shared out to the group.
    cache.batch_repeat_interleave(group)
    logits = logits.repeat_interleave(group, dim=0)
    seen = prompt_mask.repeat_interleave(group, dim=0)

    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    alive = torch.ones(len(seen), dtype=torch.bool)
    for t in range(max_length):
        kept = keep_most_likely(logits / sampling.temperature, sampling.top_k, sampling.top_p)
        drawn = torch.multinomial(kept.softmax(-1), 1, generator=generator).squeeze(-1)
        token = torch.where(alive, drawn, pad)
        stats = token_stats(logits, token, temperature=sampling.temperature, mask=alive)
        columns.append((token, alive, stats.logp))
        alive = alive & (token != eos)
        if not alive.any() or t + 1 == max_length:
            break
        # A finished row goes on being fed padding; nothing of it is read.
        seen = torch.cat([seen, torch.ones_like(alive)[:, None]], dim=1)
        logits = model(
            input_ids=token[:, None],
            attention_mask=seen.long(),
            position_ids=position_ids(seen)[:, -1:],
            past_key_values=cache,
        ).logits[:, -1]
    tokens, mask, logp = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    return Samples(tokens, mask, logp, truncated=alive)


def keep_most_likely(logits: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Set to −inf all but the top_k likeliest tokens, and of these all but the first that together
    reach probability top_p. Logits [B, V]; the likeliest token always stays."""
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        p, order = logits.softmax(-1).sort(descending=True, stable=True)
        before = p.cumsum(-1) - p
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits
