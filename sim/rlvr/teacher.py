"""A teacher's traces among the sampled responses: the task's own solutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sim.rlvr.experts import FREE
from sim.rlvr.sampling import Samples, fieldwise

__all__ = ["with_teacher"]


def with_teacher(
    samples: Samples, solutions: Tensor, solution_mask: Tensor, traces: int
) -> Samples:
    """Put `traces` copies of its solution behind the sampled responses to each prompt.

    The task writes its solution with certainty: logp 0, nothing left out by top-p or top-k. It has
    no routing, so the trainer's router is free there.

    Args:
        samples: the same number to each of N prompts.
        solutions: [N, S] int64, padded on the right.
        solution_mask: [N, S] bool.
        traces: of each solution.
    """
    groups, length = solutions.shape
    width = max(samples.tokens.shape[1], length)
    own = samples.widened(width)
    kept, routing = own.kept, own.routing
    if kept is not None:
        kept = torch.ones(groups, length, kept.shape[-1], dtype=torch.bool)
    if routing is not None:
        routing = torch.full((groups, routing.shape[1] - width + length, routing.shape[-1]), FREE)
    taught = Samples(
        solutions,
        solution_mask,
        logp=torch.zeros(solutions.shape),
        truncated=torch.zeros(groups, dtype=torch.bool),
        teacher=torch.ones(groups, dtype=torch.bool),
        kept=kept,
        routing=routing,
    )
    taught = taught.rows(torch.arange(groups).repeat_interleave(traces)).widened(width)

    def side_by_side(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1).flatten(0, 1)

    return fieldwise(side_by_side, own, taught)
