"""Batched sampling with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, LlamaForCausalLM

from entropy_ext import Support, token_stats
from entropy_ext.recipes import Sampling
from sim.rlvr.experts import FREE, routes
from sim.rlvr.model import position_ids
from sim.rlvr.task import CharTokenizer

__all__ = ["Samples", "fieldwise", "keep_most_likely", "sample"]


@dataclass(frozen=True)
class Samples:
    """Responses, G to each prompt, those of a prompt side by side; padded on the right."""

    tokens: Tensor
    """[B, T] int64"""
    mask: Tensor
    """[B, T] bool, the end-of-sequence token included"""
    logp: Tensor
    """[B, T] as seen while sampling, at its temperature: of the full distribution, or of the one
    drawn from where that was kept"""
    truncated: Tensor
    """[B] bool: no end-of-sequence token within the limit"""
    teacher: Tensor
    """[B] bool: written by a teacher, not sampled"""
    kept: Tensor | None = None
    """[B, T, V] bool: the tokens left to draw from; only where asked for"""
    routing: Tensor | None = None
    """[B, P + T − 1, layers] int64: experts chosen, of a model that has them"""

    def rows(self, index: Tensor | slice) -> Samples:
        """The responses at `index`."""
        return fieldwise(lambda part: part[0][index], self)

    def widened(self, width: int) -> Samples:
        """The same, padded to `width` tokens."""
        extra = width - self.tokens.shape[1]
        kept, routing = self.kept, self.routing
        return replace(
            self,
            tokens=pad(self.tokens, (0, extra), value=CharTokenizer.pad),
            mask=pad(self.mask, (0, extra)),
            logp=pad(self.logp, (0, extra)),
            kept=None if kept is None else pad(kept, (0, 0, 0, extra)),
            routing=None if routing is None else pad(routing, (0, 0, 0, extra), value=FREE),
        )

    def support(self) -> Support | None:
        """The kept tokens as B·T rows, if they were asked for; no id where mask is False."""
        if self.kept is None:
            return None
        kept = (self.kept & self.mask[..., None]).flatten(0, 1)
        offsets = pad(kept.sum(-1).cumsum(0), (1, 0))
        return Support(offsets, kept.nonzero()[:, 1].int())


def fieldwise(combine: Callable[[Sequence[Tensor]], Tensor], *parts: Samples) -> Samples:
    """Samples whose every field combines those of the parts."""
    combined: dict[str, Any] = {}
    for name in vars(parts[0]):
        values = [getattr(part, name) for part in parts]
        combined[name] = None if values[0] is None else combine(values)
    return Samples(**combined)


@torch.no_grad()
def sample(
    model: LlamaForCausalLM,
    prompt: Tensor,
    prompt_mask: Tensor,
    *,
    max_length: int,
    sampling: Sampling,
    generator: torch.Generator,
    keep_support: bool = False,
) -> Samples:
    """Draw `sampling.group_size` responses to every prompt.

    Args:
        model: the policy, in any precision.
        prompt: [N, P] int64, padded on the left.
        prompt_mask: [N, P] bool.
        max_length: longest response, tokens.
        sampling: group size, temperature, top_p and top_k.
        generator: source of all randomness.
        keep_support: also record which tokens top_k and top_p left, and give logp over these.
    """
    pad_token, eos, group = CharTokenizer.pad, CharTokenizer.eos, sampling.group_size
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
    routing = [] if (used := routes(model)) is None else [used.repeat_interleave(group, dim=0)]

    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    left: list[Tensor] = []
    alive = torch.ones(len(seen), dtype=torch.bool)
    for t in range(max_length):
        scaled = logits.float() / sampling.temperature
        kept = keep_most_likely(scaled, sampling.top_k, sampling.top_p)
        drawn = torch.multinomial(kept.softmax(-1), 1, generator=generator).squeeze(-1)
        token = torch.where(alive, drawn, pad_token)
        if keep_support:
            stats = token_stats(kept, token, mask=alive)
        else:
            stats = token_stats(logits, token, temperature=sampling.temperature, mask=alive)
        columns.append((token, alive, stats.logp))
        if keep_support:
            left.append(kept > -torch.inf)
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
        if (used := routes(model)) is not None:
            routing.append(used)
    tokens, mask, logp = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    return Samples(
        tokens,
        mask,
        logp,
        truncated=alive,
        teacher=torch.zeros_like(alive),
        kept=torch.stack(left, dim=1) if keep_support else None,
        routing=torch.cat(routing, dim=1) if routing else None,
    )


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
