"""A small Llama of random initialisation, a value head for it, and the passes of training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from entropy_ext import Support, TokenStats, linear_token_stats, token_stats
from sim.rlvr.experts import add_experts, replayed

__all__ = [
    "Critic",
    "build_model",
    "in_precision",
    "position_ids",
    "response_hidden",
    "response_stats",
]


def build_model(
    *,
    vocab_size: int,
    seed: int,
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    max_positions: int = 64,
    experts: int = 1,
) -> LlamaForCausalLM:
    """A causal transformer; with the defaults and a vocabulary of 16, 0.86 M parameters."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        if experts > 1:
            add_experts(model, experts)
    return model


class Critic(nn.Module):
    """A value function: a transformer of its own, at first the policy's, and a head of zeros."""

    def __init__(self, policy: LlamaForCausalLM) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(policy.model)
        self.head = nn.Linear(policy.config.hidden_size, 1, dtype=policy.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, prompt: Tensor, prompt_mask: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """[B, T]: the value of each token's state, the text before it. 0 off the mask."""
        hidden = self.trunk(**_inputs(prompt, prompt_mask, tokens, mask)).last_hidden_state
        values = self.head(hidden[:, -tokens.shape[1] :]).squeeze(-1)
        return torch.where(mask, values, 0.0)


def in_precision(model: LlamaForCausalLM, dtype: torch.dtype) -> LlamaForCausalLM:
    """The model itself if its parameters have that dtype, else a copy with rounded parameters.

    As where one engine samples and another trains, such as vLLM in bfloat16.
    """
    if dtype == model.dtype:
        return model
    rounded = copy.deepcopy(model)
    # Parameters alone: position frequencies stay in float32, as engines keep them.
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(dtype)
    return rounded


def position_ids(mask: Tensor) -> Tensor:
    """[B, L] int64: each token's place among the unpadded ones; 0 for padding on the left."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def response_stats(
    model: LlamaForCausalLM,
    prompt: Tensor,
    prompt_mask: Tensor,
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    support: Support | None = None,
    extras: bool = False,
    routing: Tensor | None = None,
    chunked_head: bool = False,
    chunk_tokens: int | None = None,
) -> TokenStats:
    """Statistics of every response token, differentiable in the parameters.

    Args:
        model: the policy.
        prompt: [B, P] int64, padded on the left.
        prompt_mask: [B, P] bool.
        tokens: [B, T] int64, responses, padded on the right.
        mask: [B, T] bool.
        temperature: of the policy.
        support: B·T rows, see `token_stats`.
        extras: see `token_stats`.
        routing: [B, P + T − 1, layers] int64 to replay, of a model with experts.
        chunked_head: never hold the logits of all tokens at once; not with a support.
        chunk_tokens: see `linear_token_stats`.

    Returns:
        TokenStats of [B, T], nats, 0 off the mask.
    """
    texts = (prompt, prompt_mask, tokens, mask)
    if chunked_head:
        if support is not None:
            raise ValueError("chunked_head: expected no support, which needs all logits of a token")
        return linear_token_stats(
            *(response_hidden(model, *texts, routing=routing), model.lm_head.weight, tokens),
            temperature=temperature,
            mask=mask,
            chunk_tokens=chunk_tokens,
            extras=extras,
        )
    with replayed(model, routing):
        logits = model(**_inputs(*texts), logits_to_keep=tokens.shape[1]).logits
    return token_stats(
        logits, tokens, temperature=temperature, mask=mask, support=support, extras=extras
    )


def response_hidden(
    model: LlamaForCausalLM,
    prompt: Tensor,
    prompt_mask: Tensor,
    tokens: Tensor,
    mask: Tensor,
    *,
    routing: Tensor | None = None,
) -> Tensor:
    """[B, T, H]: what the head turns into the logits of every response token."""
    with replayed(model, routing):
        hidden: Tensor = model.model(**_inputs(prompt, prompt_mask, tokens, mask)).last_hidden_state
    return hidden[:, -tokens.shape[1] :]


def _inputs(
    prompt: Tensor, prompt_mask: Tensor, tokens: Tensor, mask: Tensor
) -> dict[str, Tensor | bool]:
    # The last token is predicted but predicts nothing.
    seen = torch.cat([prompt_mask, mask[:, :-1]], dim=1)
    return {
        "input_ids": torch.cat([prompt, tokens[:, :-1]], dim=1),
        "attention_mask": seen.long(),
        "position_ids": position_ids(seen),
        "use_cache": False,
    }
