"""A vocabulary in shards against the same vocabulary in one piece."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

from entropy_ext import (
    linear_token_stats,
    token_stats,
    vocab_parallel_linear_token_stats,
    vocab_parallel_token_stats,
)
from entropy_ext.partials import merge_partials, partials
from tests import draws
from tests.truth import assert_within_rule, baseline_run, stats_dtype, true_run

ROWS, V = 6, 997
WORLDS = (2, 3, 4)


def merged(
    logits: Tensor, tokens: Tensor, cuts: list[int], tau: Tensor, mask: Tensor | None = None
) -> Any:
    """Rows from the shards between the cuts, without processes."""
    bounds = [0, *sorted(cuts), logits.shape[-1]]
    shards = [
        partials(logits[..., a:b], tokens - a, tau, mask) for a, b in itertools.pairwise(bounds)
    ]
    return merge_partials(shards, tau, mask)


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, V), max_size=4),
    kind=st.sampled_from(["uniform", "peaked", "one_hot", "masked", "shifted"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_split_gives_the_whole(
    device: torch.device, cuts: list[int], kind: str, seed: int
) -> None:
    """Catches a merge that depends on where the cuts are: empty shards, shards of −inf, offsets."""
    logits = draws.draw_logits(kind, ROWS, V, torch.float64).to(device)
    tokens = torch.randint(V, (ROWS,), generator=torch.Generator().manual_seed(seed)).to(device)
    tau = torch.tensor(0.7, dtype=torch.float64, device=device)
    rows = merged(logits, tokens, cuts, tau)
    whole = token_stats(logits, tokens, temperature=tau)
    for ours, truth in zip(rows[:3], whole[:3], strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-13, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("cuts", [[], [1], [400], [400, 401], [0, 0, 997]])
def test_nan_anywhere_is_nan(device: torch.device, bad: float, cuts: list[int]) -> None:
    """Catches a shard of NaN alone that is taken for one of −inf alone."""
    logits = torch.zeros(2, V, device=device)
    logits[0, 400] = bad
    tokens, tau = torch.tensor([3, 3], device=device), torch.tensor(1.0, device=device)
    rows = merged(logits, tokens, cuts, tau)
    assert all(x[0].isnan() for x in rows[:3])
    assert not any(x[1].isnan() for x in rows[:3])


def test_rows_of_minus_infinity_and_masked_rows(device: torch.device) -> None:
    """Catches −inf − −inf taken for 0, and masked rows that are read."""
    logits = torch.zeros(3, V, device=device)
    logits[0] = -torch.inf
    logits[1] = torch.nan
    logits[2, :500] = -torch.inf
    mask = torch.tensor([True, False, True], device=device)
    tokens, tau = torch.tensor([0, -7, 3], device=device), torch.tensor(1.0, device=device)
    rows = merged(logits, tokens, [250, 500], tau, mask)
    assert all(x[0].isnan() for x in rows[:3])
    assert all(x[1] == 0 for x in rows[:3])
    assert rows.logp[2] == -torch.inf
    assert rows.entropy[2].item() == pytest.approx(math.log(497), rel=1e-7)


def worker(rank: int, init: str, results: str) -> None:
    """One rank: what it has as one of two, three and four, saved for the parent to compare."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=max(WORLDS))
    saved = {}
    for world in WORLDS:
        group = dist.new_group(list(range(world)))
        if rank < world:
            saved[world] = [one_case(rank, group, *case) for case in cases(world)]
            saved["linear", world] = linear_case(rank, group)
    with pytest.raises(ValueError, match="tokens") as error:
        vocab_parallel_token_stats(
            torch.zeros(2, 3), torch.tensor([1, 12]), group=dist.group.WORLD, vocab_start=3 * rank
        )
    saved["overlap"] = overlap()
    torch.save((saved, str(error.value), dtensor_case()), f"{results}/{rank}.pt")
    dist.destroy_process_group()


def linear_problem() -> dict[str, Tensor]:
    """Hidden states and a head whose logits are peaked; a masked hidden state is NaN."""
    generator = torch.Generator().manual_seed(9)
    hidden = torch.randn(ROWS, 16, generator=generator, dtype=torch.float64)
    hidden[2] = torch.nan
    return {
        "hidden": hidden,
        "weight": 2 * torch.randn(V, 16, generator=generator, dtype=torch.float64),
        "bias": torch.randn(V, generator=generator, dtype=torch.float64),
    }


def linear_case(rank: int, group: dist.ProcessGroup) -> tuple[list[Tensor], list[Tensor | None]]:
    """Statistics, and gradients of the hidden states and of this rank's rows of the head."""
    _, tokens, tau, mask, grads = problem(torch.float64)
    bounds = [0, *(17 * r for r in range(1, group.size())), V]
    rows = slice(bounds[rank], bounds[rank + 1])
    whole = linear_problem()
    leaves = [whole["hidden"], whole["weight"][rows].clone(), whole["bias"][rows].clone()]
    hidden, weight, bias = (x.requires_grad_() for x in leaves)
    stats = vocab_parallel_linear_token_stats(
        hidden,
        weight,
        tokens,
        group=group,
        vocab_start=rows.start,
        local_bias=bias,
        temperature=tau,
        mask=mask,
        chunk_tokens=4,
    )
    torch.autograd.backward(tuple(stats[:3]), grads)
    return [x.detach() for x in stats[:3]], [x.grad for x in leaves]


def dtensor_case() -> tuple[list[Tensor], Tensor, str]:
    """Rows spread over one dimension of a mesh, columns over the other: 997 is no multiple of 2."""
    mesh = init_device_mesh("cpu", (2, 2))
    logits, tokens, tau, mask, grads = problem(torch.float64)
    leaf = distribute_tensor(logits, mesh, [Shard(0), Shard(-1)]).requires_grad_()
    rows = slice(3 * mesh.get_local_rank(0), 3 * mesh.get_local_rank(0) + 3)
    stats = vocab_parallel_token_stats(leaf, tokens[rows], temperature=tau[rows], mask=mask[rows])
    torch.autograd.backward(tuple(stats[:3]), tuple(g[rows] for g in grads))
    whole = distribute_tensor(logits, mesh, [Replicate(), Replicate()])
    with pytest.raises(ValueError, match="local_logits") as error:
        vocab_parallel_token_stats(whole, tokens)
    return [x.detach() for x in stats[:3]], leaf.grad.full_tensor(), str(error.value)


def overlap() -> str:
    """What each rank says when all begin at the same column."""
    with pytest.raises(ValueError, match="vocab_start") as error:
        vocab_parallel_token_stats(
            torch.zeros(2, 3), torch.tensor([1, 2]), group=dist.group.WORLD, vocab_start=0
        )
    return str(error.value)


def one_case(
    rank: int, group: dist.ProcessGroup, dtype: torch.dtype, cuts: list[int]
) -> tuple[list[Tensor], Tensor | None]:
    """Statistics and gradient of this rank's columns."""
    logits, tokens, tau, mask, grads = problem(dtype)
    bounds = [0, *cuts, V]
    local = logits[..., bounds[rank] : bounds[rank + 1]].clone().requires_grad_()
    options = {"temperature": tau, "mask": mask, "group": group, "vocab_start": bounds[rank]}
    stats = vocab_parallel_token_stats(local, tokens, **options)
    torch.autograd.backward(tuple(stats[:3]), grads)
    return [x.detach() for x in stats[:3]], local.grad


def cases(world: int) -> list[tuple[torch.dtype, list[int]]]:
    """Dtypes and cuts: even, uneven, and with an empty shard."""
    even = [V * r // world for r in range(1, world)]
    uneven = [17 * r for r in range(1, world)]
    empty = [0, *even[1:]]
    return [(torch.float32, even), (torch.bfloat16, uneven), (torch.float64, empty)]


def problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Logits, tokens, temperature, mask and upstream gradients; every rank makes the same."""
    logits = draws.draw_logits("peaked", ROWS, V, dtype)
    logits[1, 100:300] = -torch.inf
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(V, (ROWS,), generator=generator)
    tau = 0.5 + torch.rand(ROWS, generator=generator, dtype=wide)
    mask = torch.tensor([True, True, False, True, True, True])
    grads = tuple(torch.randn(ROWS, generator=generator, dtype=wide) for _ in range(3))
    return logits, tokens, tau, mask, grads


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of four processes saved."""
    path = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (f"file://{path}/init", str(path)), nprocs=max(WORLDS))
    return [torch.load(path / f"{rank}.pt") for rank in range(max(WORLDS))]


@pytest.mark.parametrize("world", WORLDS)
def test_processes_agree_with_one(world: int, saved: list[Any]) -> None:
    """Catches ranks that return different bits, columns off by one, a gradient of one shard."""
    for case, (dtype, _) in enumerate(cases(world)):
        logits, tokens, tau, mask, grads = problem(dtype)
        per_rank = [results[world][case] for results, *_ in saved[:world]]
        for stats, _ in per_rank[1:]:
            for ours, first in zip(stats, per_rank[0][0], strict=True):
                assert torch.equal(ours, first)
        gradient = torch.cat([grad for _, grad in per_rank], -1)
        assert gradient[~mask].eq(0).all()
        rows = (logits[mask], tokens[mask], tau[mask], [tuple(g[mask] for g in grads)])
        truth, baseline = true_run(*rows), baseline_run(*rows)
        compute = stats_dtype(dtype)
        for name, ours in zip(("logp", "entropy", "lse"), per_rank[0][0], strict=True):
            expected, usual = truth.values[name], baseline.values[name]
            assert_within_rule(name, ours[mask], expected, usual, compute=compute)
        assert_within_rule(
            "gradient",
            gradient[mask],
            truth.gradients[0],
            baseline.gradients[0],
            compute=compute,
            stored=dtype,
        )


@pytest.mark.parametrize("world", WORLDS)
def test_the_chunked_head_over_ranks(world: int, saved: list[Any]) -> None:
    """Catches hidden states that receive one rank's gradient only, and misplaced chunks."""
    _, tokens, tau, mask, grads = problem(torch.float64)
    leaves = {name: x.requires_grad_() for name, x in linear_problem().items()}
    whole = linear_token_stats(**leaves, tokens=tokens, temperature=tau, mask=mask)
    torch.autograd.backward(tuple(whole[:3]), grads)
    per_rank = [results["linear", world] for results, *_ in saved[:world]]
    for stats, (hidden_grad, _, _) in per_rank:
        for ours, first, truth in zip(stats, per_rank[0][0], whole[:3], strict=True):
            assert torch.equal(ours, first)
            torch.testing.assert_close(ours, truth.detach(), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(hidden_grad, leaves["hidden"].grad, rtol=1e-12, atol=1e-13)
    for i, name in ((1, "weight"), (2, "bias")):
        together = torch.cat([gradients[i] for _, gradients in per_rank])
        torch.testing.assert_close(together, leaves[name].grad, rtol=1e-12, atol=1e-13)


def test_a_dtensor_knows_its_shards(saved: list[Any]) -> None:
    """Catches a wrong first column or group, and a gradient that is not laid out as the logits."""
    logits, tokens, tau, mask, grads = problem(torch.float64)
    leaf = logits.clone().requires_grad_()
    whole = token_stats(leaf, tokens, temperature=tau, mask=mask)
    torch.autograd.backward(tuple(whole[:3]), grads)
    for rank, (_, _, (stats, gradient, message)) in enumerate(saved):
        rows = slice(3 * (rank // 2), 3 * (rank // 2) + 3)
        for ours, truth in zip(stats, whole[:3], strict=True):
            torch.testing.assert_close(ours, truth[rows].detach(), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-12, atol=1e-13)
        assert "expected a DTensor with Shard(1)" in message


def test_a_token_that_no_rank_holds_is_named(saved: list[Any]) -> None:
    """Catches a log-probability made up for it, and an error on some ranks while others wait."""
    for _, message, _ in saved:
        assert message == "tokens[1]: expected a column that some rank holds, got 12"


def test_overlapping_columns_are_refused(saved: list[Any]) -> None:
    """Catches columns that count twice because a rank forgot its vocab_start."""
    for results, *_ in saved:
        assert "expected ranks with columns of their own, got [(0, 3), (0, 3)" in results["overlap"]


def test_wrong_arguments_are_named() -> None:
    """Catches an error from inside a collective, where the other ranks would hang."""
    with pytest.raises(ValueError, match="vocab_start: expected at least 0, got -1"):
        vocab_parallel_token_stats(
            torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), group=object(), vocab_start=-1
        )
    for start in (1.5, True):
        with pytest.raises(TypeError, match="vocab_start: expected a whole number"):
            vocab_parallel_token_stats(
                torch.zeros(2, 3), torch.zeros(2).long(), group=object(), vocab_start=start
            )
    # On every rank alike, before any exchange.
    tau = torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match=r"temperature\[1\]: expected a finite number above"):
        vocab_parallel_token_stats(
            torch.zeros(2, 0), torch.zeros(2).long(), group=object(), vocab_start=3, temperature=tau
        )
    with pytest.raises(ValueError, match="group, vocab_start: expected both"):
        vocab_parallel_token_stats(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
