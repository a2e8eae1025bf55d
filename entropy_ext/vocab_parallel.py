"""Token statistics over a vocabulary that is sharded over the ranks of a process group."""

from __future__ import annotations

import itertools
import math
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
from entropy_ext.partials import MergedRows, merge_partials, partials
from entropy_ext.token_stats import TokenStats

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["check_held", "exchange", "vocab_parallel_token_stats", "vocab_shard"]


def vocab_parallel_token_stats(
    local_logits: Tensor,
    tokens: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    vocab_start: int | None = None,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
) -> TokenStats:
    """token_stats of logits whose columns are on several ranks; exchanges 4 numbers per token.

    With Mₛ, Σₛ, Hₛ the largest logit, Σ exp((z − Mₛ)/τ) and the entropy over the columns of rank s:
    M = max Mₛ,  Σ = Σₛ Σₛ·exp((Mₛ − M)/τ),  wₛ = Σₛ·exp((Mₛ − M)/τ)/Σ,
    H = Σₛ wₛ(Hₛ − ln wₛ),  lse = M/τ + ln Σ,  logp = (z[token] − M)/τ − ln Σ.

    They are merged in rank order on every rank, in float64, so that all ranks return the same bits.
    Gradient flows to each rank's own columns, without communication. The upstream gradients must be
    the same on every rank, which is the case if every rank computes the same loss.

    Args:
        local_logits: [..., Vₛ] this rank's columns, in the dtypes of `token_stats`. Vₛ may differ
            between ranks and may be 0. Padding columns must be −inf, or be sliced off with
            logits[..., :valid], which copies nothing. Alternatively a DTensor [..., V] whose
            placement on one dimension of its mesh is Shard(-1).
        tokens: [...] int64, ids in the whole vocabulary, the same on every rank. With a DTensor,
            this and the following arguments are plain tensors for the rows that this rank holds.
        group: the ranks that share the vocabulary; a DTensor has its own.
        vocab_start: id of this rank's first column; leave out with a DTensor.
        temperature: τ > 0, a number or a [...] tensor, the same on every rank.
        mask: [...] bool, the same on every rank.

    Returns:
        TokenStats of [...] tensors, equal on all ranks.

    Raises:
        TypeError, ValueError: as `token_stats`; on the CPU also for a token that no rank holds.
    """
    check_tensors(local_logits=local_logits, tokens=tokens, mask=mask)
    if is_dtensor(local_logits):
        if group is not None or vocab_start is not None:
            raise ValueError("group, vocab_start: expected none with a DTensor, which has them")
        group, vocab_start = vocab_shard("local_logits", local_logits)
        local_logits = local_logits.to_local()
    if group is None or vocab_start is None:
        raise ValueError("group, vocab_start: expected both for logits that are no DTensor")
    check_whole("vocab_start", vocab_start, at_least=0)
    if local_logits.ndim == 0:
        raise ValueError("local_logits: expected shape [..., Vₛ], got a 0-dimensional tensor")
    tau = temperature_tensor(temperature, local_logits)
    # The checks read only shapes, and a rank may have no columns.
    columns = local_logits if local_logits.shape[-1] else local_logits.new_empty((*tokens.shape, 1))
    check_inputs(columns.detach(), tokens, tau, mask)
    # On every rank, before any exchange: a rank that raises alone would leave the others waiting.
    check_rows(tokens, tau, mask, vocab=None)
    logp, entropy, lse = _VocabParallel.apply(  # type: ignore[no-untyped-call]
        local_logits, tokens, tau, mask, group, vocab_start
    )
    return TokenStats(logp, entropy, lse)


def vocab_shard(name: str, tensor: DTensor, dim: int = -1) -> tuple[dist.ProcessGroup, int]:
    """The ranks over which a dimension of a DTensor is sharded, and where this rank's part begins.

    Args:
        name: the argument, for the error message.
        tensor: the DTensor; `dim` is the dimension in question.

    Raises:
        ValueError: it is not sharded over exactly one dimension of the mesh.
    """
    from torch.distributed.tensor import Shard

    dim = dim % tensor.ndim
    spread = [i for i, placement in enumerate(tensor.placements) if placement == Shard(dim)]
    if len(spread) != 1:
        raise ValueError(
            f"{name}: expected a DTensor with Shard({dim}) on one dimension of its "
            f"mesh, got placements {tensor.placements}"
        )
    mesh = tensor.device_mesh
    part = math.ceil(tensor.shape[dim] / mesh.size(spread[0]))
    start = min(mesh.get_local_rank(spread[0]) * part, tensor.shape[dim])
    return mesh.get_group(spread[0]), start


class _VocabParallel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        tokens: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        group: dist.ProcessGroup,
        vocab_start: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        local = tokens - vocab_start
        mine = partials(logits, local, temperature, mask)
        shards = exchange(mine, vocab_start, logits.shape[-1], group)
        dtype = STATS_DTYPE[logits.dtype]
        rows = merge_partials(shards, temperature, mask)
        check_held(rows, tokens, mask)
        entropy, row_max, row_sum = (
            x.to(dtype) for x in (rows.entropy, rows.row_max, rows.row_sum)
        )
        ctx.save_for_backward(logits, local, temperature, mask, entropy, row_max, row_sum)
        return rows.logp.to(dtype), entropy, rows.lse.to(dtype)

    @staticmethod
    @first_order("vocab_parallel_token_stats")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, *saved = ctx.saved_tensors
        if logits.shape[-1] == 0:
            return (torch.empty_like(logits), *(None for _ in range(5)))
        # The kernel is given maximum, sum and entropy of the whole row, but only this rank's
        # columns; a token that is not among them has no entry here.
        return (native.token_stats_backward(logits, *saved, *grads), *(None for _ in range(5)))


def exchange(
    mine: Tensor, vocab_start: int, columns: int, group: dist.ProcessGroup, width: int = 0
) -> list[Tensor]:
    """The partials of all ranks, in rank order; on the CPU, after a check of their shards.

    Args:
        mine: this rank's partials, [4, ...].
        vocab_start, columns: this rank's part of the vocabulary.
        group: the ranks.
        width: size of a hidden state, or 0 without hidden states.

    Raises:
        ValueError: on every rank, if two ranks hold the same column, or if the numbers of tokens or
            the sizes of hidden states differ.
    """
    if mine.device.type == "cpu":
        _check_ranks(mine[0].numel(), width, vocab_start, columns, group)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, mine, group=group)
    return everyone


def _check_ranks(
    tokens: int, width: int, vocab_start: int, columns: int, group: dist.ProcessGroup
) -> None:
    """Exchanges a few numbers first, because gloo ends the process if sizes do not match."""
    mine = torch.tensor([tokens, width, vocab_start, vocab_start + columns], device="cpu")
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, mine, group=group)
    counts, widths, starts, ends = zip(*(x.tolist() for x in everyone), strict=True)
    if len(set(counts)) > 1:
        raise ValueError(f"tokens: expected the same number on every rank, got {list(counts)}")
    if len(set(widths)) > 1:
        raise ValueError(f"hidden: expected the same size D on every rank, got {list(widths)}")
    spans = sorted((start, end) for start, end in zip(starts, ends, strict=True) if end > start)
    for (_, end), (start, _) in itertools.pairwise(spans):
        if start < end:
            raise ValueError(
                f"vocab_start: expected ranks with columns of their own, got {spans} for "
                "[start, end) of each"
            )


def check_held(rows: MergedRows, tokens: Tensor, mask: Tensor | None) -> None:
    """On the CPU, raise ValueError for an unmasked token that no rank holds."""
    if tokens.device.type != "cpu":
        return
    lost = rows.token_logit.isnan() & ~rows.row_sum.isnan()
    if mask is not None:
        lost &= mask
    if lost.any():
        row = int(lost.flatten().to(torch.uint8).argmax())
        position = [
            int(i) for i in torch.unravel_index(torch.tensor(row, device="cpu"), tokens.shape)
        ]
        token = int(tokens.flatten()[row])
        raise ValueError(f"tokens{position}: expected a column that some rank holds, got {token}")
