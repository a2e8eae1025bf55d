"""What each rank does with the chunked head: refusals, shards of the weight, data parallelism."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from entropy_ext import (
    TokenStats,
    linear_token_loss,
    linear_token_stats,
    recipes,
    vocab_parallel_linear_token_stats,
    vocab_parallel_token_stats,
)
from entropy_ext.recipes import Plan, Recipe, Targets
from entropy_ext.rl import Rollout
from tests.recipe_runs import T, V, make_rollout

D = 12
SEQUENCES = ([0, 2, 4, 5], [1, 3])
"""of the rollout, by rank: whole groups of responses, and not as many on each"""
IMPATIENT = timedelta(seconds=2)
ZEROS = torch.zeros(2, dtype=torch.int64)


def everything(groups: dict[int, Any], rank: int) -> dict[str, Any]:
    """All jobs of two ranks."""
    group = groups[2]
    return {
        "refusals": refusals(group, rank),
        "one fails": one_fails(rank),
        "empty": shards(group, rank, [V, 0]),
        "dtensor": dtensor(rank),
        "ddp": {name: ddp(name, group, rank) for name in RECIPES},
        "fsdp": {name: fsdp(name, group, rank) for name in RECIPES},
    }


def refusals(group: dist.ProcessGroup, rank: int) -> dict[str, str]:
    """What every rank is told where the ranks do not fit each other, or the shards the call."""

    def tokens() -> None:
        n = 2 + rank
        vocab_parallel_token_stats(
            torch.zeros(n, 3), ZEROS.new_zeros(n), group=group, vocab_start=3 * rank
        )

    def hidden() -> None:
        size = 4 + rank
        hidden, weight = torch.zeros(2, size), torch.zeros(3, size)
        vocab_parallel_linear_token_stats(hidden, weight, ZEROS, group=group, vocab_start=3 * rank)

    def overlap() -> None:
        hidden, weight = torch.zeros(2, 4), torch.zeros(3, 4)
        vocab_parallel_linear_token_stats(hidden, weight, ZEROS, group=group, vocab_start=2 * rank)

    def a_gap() -> None:
        hidden, weight = torch.zeros(2, 4), torch.zeros(3, 4)
        vocab_parallel_linear_token_stats(
            hidden, weight, ZEROS + 3, group=group, vocab_start=4 * rank
        )

    mesh = init_device_mesh("cpu", (2,))
    whole, placed = torch.zeros(V, 4), torch.zeros(2, 4)

    def not_by_rows() -> None:
        weight = distribute_tensor(whole, mesh, [Replicate()])
        vocab_parallel_linear_token_stats(placed, weight, ZEROS)

    def known_already() -> None:
        weight = distribute_tensor(whole, mesh, [Shard(0)])
        vocab_parallel_linear_token_stats(placed, weight, ZEROS, group=group, vocab_start=0)

    def in_pieces() -> None:
        linear_token_stats(placed, distribute_tensor(whole, mesh, [Shard(0)]), ZEROS)

    found = {}
    for attempt in (tokens, hidden, overlap, a_gap, not_by_rows, known_already, in_pieces):
        with pytest.raises((TypeError, ValueError)) as error:
            attempt()
        found[attempt.__name__] = str(error.value)
    return found


def one_fails(rank: int) -> dict[str, str]:
    """What each rank is told where one of them alone does not get as far as the exchange."""
    weight, found = torch.zeros(3, 4, requires_grad=True), {}

    def forward() -> None:
        group = dist.new_group([0, 1], timeout=IMPATIENT)
        start = 0 if rank == 0 else -1
        vocab_parallel_linear_token_stats(
            torch.zeros(2, 4), weight, ZEROS, group=group, vocab_start=start
        )

    def backward() -> None:
        group = dist.new_group([0, 1], timeout=IMPATIENT)
        hidden = torch.zeros(2, 4, requires_grad=True)
        stats = vocab_parallel_linear_token_stats(
            hidden, weight, ZEROS, group=group, vocab_start=3 * rank
        )
        if rank == 1:
            raise ValueError("between forward and backward")
        stats.logp.sum().backward()

    for attempt in (forward, backward):
        with pytest.raises((RuntimeError, ValueError)) as error:
            attempt()
        found[attempt.__name__] = f"{type(error.value).__name__}: {error.value}"
    return found


def head_problem() -> dict[str, Tensor]:
    """Every rank makes the same."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = torch.randint(V, (5,), generator=generator)
    return {"hidden": normal(5, D), "weight": normal(V, D), "bias": normal(V), "tokens": tokens}


def head_loss(stats: TokenStats) -> Tensor:
    return (stats.logp * torch.arange(5) - 0.3 * stats.entropy + 0.1 * stats.lse).sum()


def shards(group: dist.ProcessGroup, rank: int, sizes: list[int]) -> list[Tensor]:
    """logp, and gradients of hidden, weight and bias, this rank holding so many rows."""
    whole, start = head_problem(), sum(sizes[:rank])
    rows = slice(start, start + sizes[rank])
    leaves = [whole["hidden"], whole["weight"][rows].clone(), whole["bias"][rows].clone()]
    hidden, weight, bias = (x.requires_grad_() for x in leaves)
    stats = vocab_parallel_linear_token_stats(
        *(hidden, weight, whole["tokens"]),
        group=group,
        vocab_start=start,
        local_bias=bias,
        chunk_tokens=2,
    )
    head_loss(stats).backward()
    return [stats.logp.detach(), hidden.grad, weight.grad, bias.grad]


def dtensor(rank: int) -> list[Tensor]:
    """The same, of a weight and a bias that know where their rows are."""
    whole, mesh = head_problem(), init_device_mesh("cpu", (2,))
    hidden = whole["hidden"].requires_grad_()
    weight, bias = (
        distribute_tensor(whole[name], mesh, [Shard(0)]).requires_grad_()
        for name in ("weight", "bias")
    )
    stats = vocab_parallel_linear_token_stats(
        hidden, weight, whole["tokens"], local_bias=bias, chunk_tokens=2
    )
    head_loss(stats).backward()
    grads = [weight.grad.full_tensor(), bias.grad.full_tensor()]
    return [stats.logp.detach(), hidden.grad, *grads]


# One whose selection looks at the tokens of all ranks, one of whole sequences.
RECIPES: dict[str, dict[str, Any]] = {
    "clip_cov": {"fraction": 0.4, "bounds": (-50.0, 50.0)},
    "gspo": {"clip_low": 0.1, "clip_high": 0.1},
}


class Policy(nn.Module):
    """A trunk and a head, both used inside the forward pass, where wrappers expect it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(D, D, bias=False, dtype=torch.float64)
        self.head = nn.Linear(D, V, bias=False, dtype=torch.float64)
        generator = torch.Generator().manual_seed(8)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, features: Tensor, rollout: Rollout, token_loss: Any = None) -> Any:
        """Statistics, or with a token_loss its sum."""
        hidden, tokens, mask = self.trunk(features), rollout.tokens, rollout.mask
        if token_loss is None:
            return linear_token_stats(hidden, self.head.weight, tokens, mask=mask, chunk_tokens=3)
        loss, _ = linear_token_loss(
            *(hidden, self.head.weight, tokens, token_loss),
            mask=mask,
            chunk_tokens=T,
            align=T,
        )
        return loss


def features_of(rollout: Rollout) -> Tensor:
    """[B, T, D], a function of the tokens."""
    table = torch.randn(V, D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return 0.5 * table[(rollout.tokens + 1) % V]


def by_sequence(recipe: Recipe, rollout: Rollout, targets: Targets, plan: Plan) -> Any:
    """The recipe's loss, of chunks of whole sequences."""

    def token_loss(stats: TokenStats, rows: slice) -> Tensor:
        some = slice(rows.start // T, rows.stop // T)
        share = plan.rows(some)
        stats = TokenStats(*(None if x is None else x.view(-1, T) for x in stats))
        loss = recipe.token_loss(stats, rollout.rows(some), targets.rows(some), share).loss
        count = rows.stop - rows.start
        return share.aggregate(loss).expand(count) / count

    return token_loss


def update(name: str, policy: Any, group: dist.ProcessGroup, rank: int, sync: Any) -> None:
    """Gradients of one optimizer step of this rank's sequences, in two micro-batches."""
    recipe, rollout = (
        recipes.get(name, **RECIPES[name]),
        make_rollout().rows(torch.tensor(SEQUENCES[rank])),
    )
    targets = recipe.targets(rollout, group=group)
    with torch.no_grad():
        stats = policy(features_of(rollout), rollout)
    plan = recipe.prepare(stats, rollout, targets, group=group)
    for turn, rows in enumerate(torch.arange(len(rollout.tokens)).tensor_split(2)):
        some = rollout.rows(rows)
        token_loss = by_sequence(recipe, some, targets.rows(rows), plan.rows(rows))
        with sync(turn == 1):
            policy(features_of(some), some, token_loss).backward()


def ddp(name: str, group: dist.ProcessGroup, rank: int) -> list[Tensor]:
    """Gradients of trunk and head under DistributedDataParallel."""
    policy = Policy()
    wrapped = DistributedDataParallel(policy, process_group=group)

    def sync(last: bool) -> Any:
        return torch.enable_grad() if last else wrapped.no_sync()

    update(name, wrapped, group, rank, sync)
    return [parameter.grad for parameter in policy.parameters()]


def fsdp(name: str, group: dist.ProcessGroup, rank: int) -> list[Tensor]:
    """The same under FSDP's fully_shard, the shards put together."""
    policy = Policy()
    fully_shard(policy, mesh=init_device_mesh("cpu", (2,)))

    def sync(last: bool) -> Any:
        policy.set_requires_gradient_sync(last)
        return torch.enable_grad()

    update(name, policy, group, rank, sync)
    assert all(isinstance(parameter, DTensor) for parameter in policy.parameters())
    return [parameter.grad.full_tensor() for parameter in policy.parameters()]
