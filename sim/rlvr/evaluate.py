"""How often a sampled answer to an unseen problem is right."""

from __future__ import annotations

import dataclasses

import torch
from transformers import LlamaForCausalLM

from entropy_ext.recipes import Sampling
from sim.rlvr.sampling import sample
from sim.rlvr.task import ChainSum

__all__ = ["accuracy"]


def accuracy(
    model: LlamaForCausalLM,
    held_out: ChainSum,
    sampling: Sampling,
    *,
    generator: torch.Generator,
    max_length: int,
    problems: int = 512,
) -> float:
    """Share of right answers, one sampled to each of the first `problems` held-out problems."""
    rows = torch.arange(min(problems, len(held_out)))
    samples = sample(
        model,
        held_out.prompt_tokens[rows],
        held_out.prompt_mask[rows],
        max_length=max_length,
        sampling=dataclasses.replace(sampling, group_size=1),
        generator=generator,
    )
    texts = [held_out.tokenizer.decode(row) for row in samples.tokens.tolist()]
    return held_out.score(rows.tolist(), texts).float().mean().item()
