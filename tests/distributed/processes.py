"""Ranks as processes, started once for all the jobs they are to do."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# A rank that waits for another that will not come fails, rather than the whole suite.
PATIENCE = timedelta(minutes=5)

# One process imports torch, the others are forks of it.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["torch", "torch.distributed", "entropy_ext", "tests.distributed.jobs"]
)


def run_ranks(job: Callable[[dict[int, Any], int], Any], world: int, folder: Path) -> list[Any]:
    """What job(groups, rank) returns on every rank, over gloo.

    groups[n] is the process group of the first n ranks, for every n from 2 to the whole world: a
    rank outside it has None there.
    """
    mp.start_processes(_rank, args=(job, world, folder), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def _rank(rank: int, job: Callable[[dict[int, Any], int], Any], world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=PATIENCE,
    )
    groups = {n: dist.new_group(list(range(n)), timeout=PATIENCE) for n in range(2, world + 1)}
    members = {n: group if rank < n else None for n, group in groups.items()}
    torch.save(job(members, rank), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
