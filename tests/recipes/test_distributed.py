from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from entropy_ext import TokenStats, recipes
from entropy_ext.rl import Rollout

LENGTHS = torch.tensor([5, 1, 2, 3])


def _rollout():
    mask = torch.arange(5) < LENGTHS[:, None]
    return Rollout(
        tokens=torch.zeros(4, 5, dtype=torch.int64),
        mask=mask,
        rewards=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        prompt=torch.tensor([0, 0, 1, 1]),
        old_logp=torch.zeros(4, 5),
        max_length=5,
        step=0,
        progress=0.0,
        correct=torch.tensor([True, False, True, False]),
    )


def _loss(recipe, rollout, group=None):
    targets = recipe.targets(rollout)
    plan = recipe.prepare(None, rollout, targets, group=group)
    zeros = torch.zeros(rollout.mask.shape)
    stats = TokenStats(zeros + 0.1, zeros, zeros)
    return plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)


def _worker(rank, name, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    results[rank] = _loss(recipes.get(name), _rollout().rows(part), dist.group.WORLD)
    dist.destroy_process_group()


def test_mean_over_ranks_is_the_whole_mini_batch(tmp_path):
    """Catches ranks normalising by their own tokens (6 and 5), not by the global count."""
    results = torch.zeros(2).share_memory_()
    mp.spawn(_worker, args=("dapo", tmp_path / "store", results), nprocs=2)
    whole = _loss(recipes.get("dapo"), _rollout())
    local = torch.stack(
        [_loss(recipes.get("dapo"), _rollout().rows(s)) for s in (slice(0, 2), slice(2, 4))]
    )
    assert results.mean().item() == pytest.approx(whole.item(), rel=1e-6)
    assert local.mean().item() != pytest.approx(whole.item(), rel=1e-3)
