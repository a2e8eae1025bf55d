"""The chunked head with the rows of its weight sharded over the ranks of a process group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext import native
from entropy_ext.autograd import first_order
from entropy_ext.inputs import (
    STATS_DTYPE,
    check_inputs,
    check_rows,
    check_tensors,
    check_whole,
    is_dtensor,
    temperature_tensor,
)
from entropy_ext.partials import merge_partials, partials
from entropy_ext.projection import (
    Gradients,
    Projection,
    check_projection,
    chunk_rows,
    flatten_rows,
    rows_of,
)
from entropy_ext.token_stats import TokenStats
from entropy_ext.vocab_parallel import check_held, exchange, vocab_shard

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["vocab_parallel_linear_token_stats"]


def vocab_parallel_linear_token_stats(
    hidden: Tensor,
    local_weight: Tensor,
    tokens: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    vocab_start: int | None = None,
    local_bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    chunk_tokens: int | None = None,
) -> TokenStats:
    """linear_token_stats for a weight whose rows are on several ranks.

    Each rank forms its columns of the logits chunk by chunk. 4 numbers per token are exchanged
    once, and merged as in `vocab_parallel_token_stats`, so that all ranks return the same bits.

    Gradient flows to local_weight and local_bias without communication, and to hidden, whose
    gradient is summed over the group. hidden is the same on every rank, and the upstream gradients
    must be so too. Either all ranks or none must require a gradient of hidden.

    Args:
        hidden: [..., D], in the dtypes of `token_stats`; the same on every rank.
        local_weight: [Vₛ, D] this rank's rows; Vₛ may differ between ranks and may be 0.
            Alternatively a DTensor [V, D] whose placement on one dimension of its mesh is Shard(0).
        tokens: [...] int64, ids in the whole vocabulary, the same on every rank.
        group: the ranks that share the vocabulary; a DTensor has its own.
        vocab_start: id of this rank's first row; leave out with a DTensor.
        local_bias: [Vₛ], or a DTensor [V] sharded like local_weight.
        temperature, mask: as in `vocab_parallel_token_stats`.
        chunk_tokens: tokens per chunk; None: as many as fit in 256 MiB of logits (CUDA: 1 GiB).

    Returns:
        TokenStats of [...] tensors, equal on all ranks.

    Raises:
        TypeError, ValueError: as `linear_token_stats` and `vocab_parallel_token_stats`.
    """
    check_tensors(local_weight=local_weight, tokens=tokens, mask=mask)
    if is_dtensor(local_weight):
        if group is not None or vocab_start is not None:
            raise ValueError("group, vocab_start: expected none with a DTensor, which has them")
        group, vocab_start = vocab_shard("local_weight", local_weight, 0)
        local_weight = local_weight.to_local()
        if isinstance(local_bias, Tensor) and is_dtensor(local_bias):
            _check_same_shard(local_bias, group, vocab_start)
            local_bias = local_bias.to_local()
    if group is None or vocab_start is None:
        raise ValueError("group, vocab_start: expected both for a weight that is no DTensor")
    check_projection(hidden, local_weight, local_bias, at_least=0)
    check_whole("vocab_start", vocab_start, at_least=0)
    tau = temperature_tensor(temperature, hidden)
    check_inputs(hidden.detach()[..., :1], tokens, tau, mask)
    # On every rank, before any exchange: a rank that raises alone would leave the others waiting.
    check_rows(tokens, tau, mask, vocab=None)
    chunk = chunk_rows(hidden, len(local_weight), chunk_tokens)
    logp, entropy, lse = _VocabParallelLinear.apply(  # type: ignore[no-untyped-call]
        hidden, local_weight, local_bias, tokens, tau, mask, group, vocab_start, chunk
    )
    return TokenStats(logp, entropy, lse)


def _check_same_shard(bias: DTensor, group: dist.ProcessGroup, vocab_start: int) -> None:
    """Raise ValueError unless the bias is sharded like the weight."""
    if vocab_shard("local_bias", bias, 0) != (group, vocab_start):
        raise ValueError("local_bias: expected a DTensor spread as local_weight is")


class _VocabParallelLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        group: dist.ProcessGroup,
        vocab_start: int,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        local = tokens - vocab_start
        flat, ids, tau, keep = flatten_rows(hidden, local, temperature, mask)
        mine = torch.empty(4, tokens.numel(), dtype=torch.float64, device=hidden.device)
        for rows, _, logits in Projection(flat, weight, bias, keep, chunk):
            mine[:, rows] = partials(logits, *rows_of(rows, ids, tau, keep))
        shards = exchange(
            mine.view(4, *tokens.shape), vocab_start, len(weight), group, hidden.shape[-1]
        )
        merged = merge_partials(shards, temperature, mask)
        check_held(merged, tokens, mask)
        dtype = STATS_DTYPE[hidden.dtype]
        logp, entropy, lse, row_max, row_sum = (x.to(dtype) for x in merged[:5])
        ctx.save_for_backward(
            hidden, weight, bias, local, temperature, mask, entropy, row_max, row_sum
        )
        ctx.group, ctx.chunk = group, chunk
        return logp, entropy, lse

    @staticmethod
    @first_order("vocab_parallel_linear_token_stats")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, local, temperature, mask, *row_stats = ctx.saved_tensors
        gradients = Gradients(hidden, weight, bias, ctx.needs_input_grad, ctx.chunk)
        flat, ids, tau, keep = flatten_rows(hidden, local, temperature, mask)
        per_token = [x.reshape(-1) for x in (*row_stats, *grads)]
        for rows, inputs, logits in Projection(flat, weight, bias, keep, ctx.chunk):
            if len(weight) > 0:
                native.token_stats_backward(
                    *(logits, *rows_of(rows, ids, tau, keep), *(x[rows] for x in per_token)),
                    out=logits,
                )
            gradients.add(rows, inputs, logits)
        if gradients.hidden is not None:
            dist.all_reduce(gradients.hidden, group=ctx.group)
        return (gradients.hidden, gradients.weight, gradients.bias, *(None for _ in range(6)))
