"""A small Llama of random initialisation, and the one forward pass that training uses."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from entropy_ext import TokenStats, token_stats

__all__ = ["build_model", "position_ids", "response_stats"]


def build_model(
    *,
    vocab_size: int,
    seed: int,
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    max_positions: int = 64,
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
        return LlamaForCausalLM(config)


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
) -> TokenStats:
    """Log-probability and entropy of every response token, differentiable in the parameters.

    Args:
        model: the policy.
        prompt: [B, P] int64, padded on the left.
        prompt_mask: [B, P] bool.
        tokens: [B, T] int64, responses, padded on the right.
        mask: [B, T] bool.
        temperature: of the policy.

    Returns:
        TokenStats of [B, T], nats, 0 off the mask.
    """
    # The last token is predicted but predicts nothing.
    inputs = torch.cat([prompt, tokens[:, :-1]], dim=1)
    seen = torch.cat([prompt_mask, mask[:, :-1]], dim=1)
    logits = model(
        input_ids=inputs,
        attention_mask=seen.long(),
        position_ids=position_ids(seen),
        use_cache=False,
        logits_to_keep=tokens.shape[1],
    ).logits
    return token_stats(logits, tokens, temperature=temperature, mask=mask)
