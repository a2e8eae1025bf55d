"""How the benchmark measures: turns, untimed steps, memory, what fits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.candidates import Shape
from bench.grid import fits
from bench.memory import peak_extra_bytes
from bench.timing import Call, cpu_stopwatch, round_robin

CPU = torch.device("cpu")


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    """Fails if pages freed again, the second 64 MB, or those of an earlier call are missed."""
    megabytes = 64

    def two_buffers() -> Tensor:
        first = torch.ones(megabytes << 18)
        return first + 1

    keep_out = torch.ones(4 * megabytes << 18)
    del keep_out
    peak = peak_extra_bytes(two_buffers, CPU)
    assert peak is not None
    assert peak / 2**20 == pytest.approx(2 * megabytes, abs=4)
    assert peak_extra_bytes(lambda: None, CPU) < 2**20


def test_round_robin_interleaves_and_rotates() -> None:
    """Fails if candidates run in blocks, where a noisy second would hit one of them only."""
    order: list[tuple[str, int]] = []
    calls = {
        name: Call(lambda turn, name=name: order.append((name, turn))) for name in ("a", "b", "c")
    }
    samples = round_robin(calls, repeats=3, stopwatch=cpu_stopwatch)
    warm, timed = order[:6], order[6:]
    assert sorted(warm) == [(name, turn) for name in "abc" for turn in (0, 1)]
    assert timed == [
        (name, turn) for turn, names in enumerate(("abc", "bca", "cab")) for name in names
    ]
    assert {name: len(sample.ms) for name, sample in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_settled_call_runs_once_untimed_before_each_timed_run() -> None:
    """Fails if the untimed step uses the timed one's buffers, or hides the first, slow call."""
    turns: list[int] = []
    samples = round_robin(
        {"a": Call(turns.append, settle=True)}, repeats=3, stopwatch=cpu_stopwatch
    )
    assert turns == [0, 1, 1, 0, 2, 1, 3, 2]
    assert len(samples["a"].ms) == 3


def test_round_robin_gives_up_on_what_does_not_fit() -> None:
    """Fails if one baseline's lack of memory ends the run of the others."""

    def too_large(turn: int) -> None:
        raise torch.OutOfMemoryError

    samples = round_robin(
        {"large": Call(too_large), "small": Call(lambda turn: None)},
        repeats=2,
        stopwatch=cpu_stopwatch,
    )
    assert samples["large"].error == "out of memory"
    assert math.isnan(samples["large"].quantile(0.5))
    assert len(samples["small"].ms) == 2


def test_a_peer_that_fails_is_noted_and_ours_is_not_forgiven() -> None:
    """Fails if a peer's missing compiler ends the run, or a fault of our own becomes a note."""

    def broken(turn: int) -> None:
        raise RuntimeError("no compiler\nfound")

    samples = round_robin(
        {"compile": Call(broken), "small": Call(lambda turn: None)},
        repeats=2,
        stopwatch=cpu_stopwatch,
    )
    assert samples["compile"].error == "RuntimeError: no compiler"
    assert len(samples["small"].ms) == 2
    with pytest.raises(RuntimeError, match="no compiler"):
        round_robin({"ours+extras": Call(broken)}, repeats=2, stopwatch=cpu_stopwatch)


def test_shape_fits_with_logits_touched_memory_and_gradient() -> None:
    """Fails if a problem is started whose gradient cannot be allocated any more."""
    shape = Shape(4, 10, "bfloat16")
    assert fits(shape, 3 * 80)
    assert not fits(shape, 3 * 80 - 1)
