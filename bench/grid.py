"""Which problems are measured, and the loop over them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch

from bench.candidates import DTYPES, Shape
from bench.results import PASSES, Result
from bench.token_stats_bench import measure

__all__ = ["DEFAULT", "QUICK", "Preset", "fits", "grid", "quick", "run"]


class Preset(NamedTuple):
    """A default for every choice; rows by device type."""

    rows: dict[str, tuple[int, ...]]
    vocab: tuple[int, ...]
    dtypes: tuple[str, ...]
    budget_s: float


# The largest CPU problem, 512 × 151936, is the reference point of docs/performance.md; its float32
# logits are 311 MB. On a GPU it takes 8192 rows to fill the chip for a millisecond.
DEFAULT = Preset(
    rows={"cpu": (64, 512), "cuda": (8, 1024, 8192)},
    vocab=(50257, 151936),
    dtypes=("float32", "bfloat16"),
    budget_s=3.0,
)
QUICK = Preset(
    rows={"cpu": (64,), "cuda": (8192,)},
    vocab=(151936,),
    dtypes=("float32", "bfloat16"),
    budget_s=0.5,
)
DEFAULT_REPEATS = {"cpu": 7, "cuda": 30}


def grid(rows: Sequence[int], vocab: Sequence[int], dtypes: Sequence[str]) -> list[Shape]:
    """Every combination, small problems first so that results appear soon."""
    shapes = [Shape(*combination) for combination in product(rows, vocab, dtypes)]
    return sorted(shapes, key=lambda shape: shape.rows * shape.vocab)


BUFFERS = 3
"""Logits, touched memory to write into, and a gradient that autograd makes."""


def fits(shape: Shape, free_bytes: int) -> bool:
    """Whether the buffers that our own passes need fit into so much memory."""
    return BUFFERS * shape.rows * shape.vocab * DTYPES[shape.dtype].itemsize <= free_bytes


def run(
    shapes: Sequence[Shape],
    *,
    device: torch.device,
    repeats: int | None = None,
    only: Collection[str] | None = None,
    directions: Collection[str] = PASSES,
    budget_s: float = DEFAULT.budget_s,
) -> Iterator[list[Result]]:
    """Measure the shapes in turn. Yields the rows of one pass of one shape at a time.

    Args:
        shapes: what to measure.
        device: cpu or cuda.
        repeats: timed runs of each implementation; None for the device's default.
        only: names from IMPLEMENTATIONS; None for all.
        directions: of results.PASSES.
        budget_s: an implementation so slow that its repeats would take longer gets fewer.
    """
    repeats = DEFAULT_REPEATS[device.type] if repeats is None else repeats
    with cold_compiler_cache():
        for shape in shapes:
            yield from measure(
                shape, directions, device=device, repeats=repeats, only=only, budget_s=budget_s
            )


def quick(device: str = "cpu") -> list[Result]:
    """The small preset, without output: 64 × 151936 (8192 on CUDA), both common dtypes."""
    kind = torch.device(device)
    shapes = grid(QUICK.rows[kind.type], QUICK.vocab, QUICK.dtypes)
    batches = run(shapes, device=kind, budget_s=QUICK.budget_s)
    return [row for batch in batches for row in batch]


@contextlib.contextmanager
def cold_compiler_cache() -> Iterator[None]:
    """Let torch.compile start from nothing, else its reported first call is a cache hit."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory() as directory:
        os.environ[name] = directory
        try:
            yield
        finally:
            del os.environ[name]
            if before is not None:
                os.environ[name] = before
