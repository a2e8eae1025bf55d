"""What a policy can do, and how sure it is of every token, measured once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from entropy_ext import TokenStats
from entropy_ext.recipes import Sampling
from entropy_ext.rl.diagnostics import pass_at_k
from sim.rlvr.model import response_stats
from sim.rlvr.sampling import Samples, sample
from sim.rlvr.task import ChainSum

__all__ = ["END", "FORKING", "measure"]

END = "↵"
"""stands for the end of a response"""

FORKING = 0.2
"""share of the untrained policy's tokens that count as forking: those of highest entropy"""


@torch.no_grad()
def measure(
    model: LlamaForCausalLM,
    held_out: ChainSum,
    *,
    problems: int,
    samples: int,
    shown: int,
    max_length: int,
    seed: int,
    forking_above: float | None = None,
) -> dict[str, Any]:
    """Samples at temperature 1 on held-out problems; plain numbers and texts.

    Args:
        model: the policy.
        held_out: problems that it was never trained on.
        problems: how many of them.
        samples: responses to each.
        shown: how many responses to return token by token, one to each of the first problems.
        max_length: longest response, tokens.
        seed: of the samples.
        forking_above: nats; None takes what the share FORKING of these tokens exceeds.

    Returns:
        pass_at_k: k → mean over problems, k in powers of 2; entropy: mean, nats; forking_above;
        forking: share of tokens of entropy above it; profiles: prompt, right, and [character,
        entropy, probability] of each token.
    """
    rows = torch.arange(min(problems, len(held_out)))
    drawn = sample(
        model,
        held_out.prompt_tokens[rows],
        held_out.prompt_mask[rows],
        max_length=max_length,
        sampling=Sampling(group_size=samples),
        generator=torch.Generator().manual_seed(seed),
    )
    asked = rows.repeat_interleave(samples)
    stats = _stats(model, held_out, asked, drawn)
    right = held_out.score(asked.tolist(), _texts(held_out, drawn))
    entropy = stats.entropy[drawn.mask]
    if forking_above is None:
        forking_above = entropy.quantile(1 - FORKING).item()
    count, successes = torch.full_like(rows, samples), right.view(-1, samples).sum(-1)
    powers = [2**i for i in range(samples.bit_length())]
    return {
        "pass_at_k": {str(k): pass_at_k(count, successes, k).mean().item() for k in powers},
        "entropy": entropy.mean().item(),
        "forking_above": forking_above,
        "forking": (entropy > forking_above).float().mean().item(),
        "profiles": [
            _profile(held_out, int(asked[row]), drawn, stats, row, bool(right[row]))
            for row in range(0, min(shown, len(rows)) * samples, samples)
        ],
    }


def _stats(
    model: LlamaForCausalLM, held_out: ChainSum, asked: Tensor, drawn: Samples
) -> TokenStats:
    return response_stats(
        model,
        held_out.prompt_tokens[asked],
        held_out.prompt_mask[asked],
        drawn.tokens,
        drawn.mask,
    )


def _texts(held_out: ChainSum, drawn: Samples) -> list[str]:
    return [held_out.tokenizer.decode(row) for row in drawn.tokens.tolist()]


def _profile(
    held_out: ChainSum, problem: int, drawn: Samples, stats: TokenStats, row: int, right: bool
) -> dict[str, Any]:
    length = int(drawn.mask[row].sum())
    numbers = zip(
        drawn.tokens[row, :length].tolist(),
        stats.entropy[row, :length].tolist(),
        stats.logp[row, :length].exp().tolist(),
        strict=True,
    )
    tokens = [
        [_shown(held_out, token), round(entropy, 4), round(p, 4)] for token, entropy, p in numbers
    ]
    return {"prompt": held_out.prompts[problem], "right": right, "tokens": tokens}


def _shown(held_out: ChainSum, token: int) -> str:
    """The character, or a sign for the end of the response, or for no character at all."""
    if token == held_out.tokenizer.eos:
        return END
    return held_out.tokenizer.decode([token])
