"""Any split of any tokens over ranks chooses the same ones; the ranks are threads."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import entropy_ext
from tests.distributed.jobs import select
from tests.distributed.threads import ThreadGroup, threads_for_processes
from tests.selection import Batch, draw_batch, each_api
from tests.truth import same_bits


@each_api
@settings(max_examples=15)
@given(
    owners=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    ranks=st.integers(1, 5),
    coarse=st.booleans(),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_any_split(
    owners: list[int], ranks: int, coarse: bool, seed: int, data: Any, api: ModuleType
) -> None:
    """Tokens in any order on any of five ranks, some of which have none; many ties if coarse.

    Catches whatever the four splits over processes happen not to show.
    """
    count = len(owners)
    whole = draw_batch(("split", seed, count), (count,), torch.float32)
    if coarse:
        whole = whole._replace(
            advantages=whole.advantages.round(), entropy=(whole.entropy * 2).round()
        )
    order = torch.tensor(data.draw(st.permutations(range(count))))
    owner = torch.tensor(owners) % ranks
    held = [order[owner == rank] for rank in range(ranks)]
    group = ThreadGroup(ranks)
    with threads_for_processes():
        parts = group.run(lambda rank: select(api, whole.taken(held[rank]), group))
    expected = select(api, whole)
    for what, values in expected.items():
        if what == "moments":
            for part in parts:
                torch.testing.assert_close(
                    part[what], values, rtol=1e-12, atol=1e-12, equal_nan=True
                )
            continue
        together = torch.empty_like(values)
        for part, places in zip(parts, held, strict=True):
            together[places] = part[what]
        if values.dtype == torch.bool:
            assert torch.equal(together, values), what
        else:
            torch.testing.assert_close(together, values, rtol=1e-6, atol=1e-6)


def test_kernels_agree_bit_for_bit(one_thread: None) -> None:
    """On a larger batch, moments and weights too: catches a merge that rounds in rank order."""
    whole = draw_batch("large split", (3000,), torch.float64)
    expected = select(entropy_ext, whole)
    for ranks in (2, 3, 7):
        held = torch.randperm(3000, generator=torch.Generator().manual_seed(ranks)).chunk(ranks)
        group = ThreadGroup(ranks)

        def job(rank: int, held: Any = held, group: ThreadGroup = group) -> dict[str, Any]:
            return select(entropy_ext, whole.taken(held[rank]), group)

        with threads_for_processes():
            parts = group.run(job)
        for what, values in expected.items():
            if what == "moments":
                assert all(same_bits(part[what], values) for part in parts)
                continue
            together = torch.empty_like(values)
            for part, places in zip(parts, held, strict=True):
                together[places] = part[what]
            assert torch.equal(together, values), what


def test_a_rank_that_fails_ends_the_others() -> None:
    """Without this an error in a thread would pass unnoticed, or hang the suite."""
    group = ThreadGroup(2)

    def job(rank: int) -> Batch:
        if rank == 1:
            raise ZeroDivisionError
        group.exchange(0)
        raise AssertionError

    with pytest.raises(ZeroDivisionError):
        group.run(job)
