"""Two, three and four processes choose what one would, however the tokens are spread."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed.jobs import (
    APIS,
    JOBS,
    SPLITS,
    TOKENS,
    Job,
    edge_case,
    positions,
    select,
    select_my_tokens,
)
from tests.distributed.processes import run_ranks
from tests.truth import same_bits

each_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: "-".join(map(str, job)))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of all jobs on all ranks."""
    return run_ranks(select_my_tokens, 4, tmp_path_factory.mktemp("ranks"))


def alone(job: Job) -> dict[str, Tensor]:
    """The results of one process that holds all tokens."""
    return select(APIS[job.api], edge_case(job.edge, job.dtype))


@each_job
def test_as_one_process(job: Job, ranks: list[Any]) -> None:
    """Every token's fate, whoever holds it; and the moments, bit for bit on every rank.

    Catches counts, thresholds and ranges of one rank's own tokens, ties broken by rank, a random
    key of the position, and results that a rank without tokens does not share.
    """
    places = positions(job.world, job.split)
    for what, whole in alone(job).items():
        parts = [ranks[rank][str(job)][what] for rank in range(job.world)]
        if what == "moments":
            for part in parts:
                assert same_bits(part, parts[0])
                if job.api == "kernels":
                    assert same_bits(part, whole)
                torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12, equal_nan=True)
            continue
        together = torch.empty_like(whole)
        for part, held in zip(parts, places, strict=True):
            assert part.shape == held.shape
            together[held] = part
        if whole.dtype == torch.bool:
            assert torch.equal(together, whole), what
        elif job.api == "kernels":
            assert same_bits(together, whole), what
        else:
            torch.testing.assert_close(together, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("split", SPLITS)
def test_every_token_is_held_once(split: str, world: int) -> None:
    """Without this the splits might test less than they say."""
    held = positions(world, split)
    assert torch.cat(held).sort().values.tolist() == list(range(TOKENS))
    sizes = [len(part) for part in held]
    assert (0 in sizes) == (split == "empty")
    if split == "uneven":
        assert min(sizes) * 20 < max(sizes)


@each_job
def test_the_jobs_choose_something(job: Job) -> None:
    """Without this all might agree on nothing."""
    batch = edge_case(job.edge, job.dtype)
    chosen = {k: int(v.sum()) for k, v in alone(job).items() if v.dtype == torch.bool}
    valid = int(batch.mask.sum())
    if job.edge in ("fine", "ties"):
        assert chosen["clip_cov"] == int(0.02 * valid)
        assert chosen["kl_cov"] == int(0.05 * valid)
        assert chosen["clip_cov, all"] == valid
        assert chosen["quantile"] >= 0.37 * valid - 1
    if job.edge == "ties":
        top = alone(job)["top_entropy"]
        at_threshold = batch.mask & (batch.entropy == batch.entropy[top].min())
        assert (at_threshold & top).sum() > 5
        assert (at_threshold & ~top).sum() > 5
    if job.edge == "one valid token":
        assert chosen["kl_cov"] == chosen["top_entropy"] == chosen["quantile"] == 1
    if job.edge == "no candidate":
        assert chosen["clip_cov"] == 0
    if job.edge == "nothing valid":
        assert sum(chosen.values()) == 0


@pytest.mark.parametrize("world", [2, 3, 4])
def test_nan_on_one_rank_hangs_none(world: int, ranks: list[Any]) -> None:
    """The rank that holds the token says so, by its own position; the others return."""
    bad = int(edge_case("fine", torch.float32).mask.nonzero()[3])
    for rank, held in enumerate(positions(world, "uneven")):
        said = ranks[rank][world]
        if bad in held.tolist():
            place = held.tolist().index(bad)
            assert said.count(f"entropy[{place}]: expected ") == 2
        else:
            assert said == "; "
