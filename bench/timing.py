"""Interleaved timing: every candidate runs once a round, so that machine noise hits all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

__all__ = [
    "Call",
    "Samples",
    "Stopwatch",
    "cpu_stopwatch",
    "cuda_stopwatch",
    "no_wait",
    "round_robin",
]

WARMUPS = 2
NEEDED = ("ours", "read", "copy", "bare")
"""How the names of our own implementations and of the floors begin."""
FEWEST_REPEATS = 3

Stopwatch = Callable[[Callable[[], object]], Callable[[], float]]
"""Runs a function and returns how to read the milliseconds it took, to be called after the round:
a CUDA event pair is not ready before."""


def nothing(turn: int) -> None:
    """The preparation of a call that needs none."""


def no_wait() -> None:
    """The synchronisation of a device whose calls return when their work is done."""


@dataclass(frozen=True)
class Call:
    """One candidate on one problem; `turn` counts the calls, to rotate among buffers."""

    run: Callable[[int], object]
    before: Callable[[int], None] = nothing
    """Untimed, right before each run."""
    settle: bool = False
    """Whether an untimed run comes before each timed one."""


@dataclass
class Samples:
    """What one candidate took."""

    first_s: float = 0.0
    """Seconds of the very first call: compilation, page faults, lazy initialisation."""
    ms: list[float] = field(default_factory=list)
    error: str = ""
    """Why there are no times, else empty."""

    def quantile(self, q: float) -> float:
        """The q-quantile of the times in ms, NaN if there are none."""
        return float(np.quantile(self.ms, q)) if self.ms else math.nan


def cpu_stopwatch(run: Callable[[], object]) -> Callable[[], float]:
    """Wall-clock time of a function that returns when its work is done."""
    start = time.perf_counter()
    kept = run()
    ms = (time.perf_counter() - start) * 1e3
    del kept  # so late: returning hundreds of megabytes to the system is not the work to be timed
    return lambda: ms


LEAD_BYTES = 1 << 30
"""Read before the first event, in some 350 µs on an H100: more than the host needs to queue the
longest chain of our launches, fifteen."""


def cuda_stopwatch(device: torch.device) -> Stopwatch:
    """Device time between two events.

    A large tensor is read before the first event. The host meanwhile queues the timed launches, so
    that launch gaps stay out of the number, and the read leaves clean lines in L2, which cost the
    timed kernel no write-back.
    """
    lead = torch.ones(LEAD_BYTES // 4, device=device)

    def stopwatch(run: Callable[[], object]) -> Callable[[], float]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        lead.sum()
        start.record()
        run()
        end.record()
        return lambda: float(start.elapsed_time(end))

    return stopwatch


def round_robin(
    calls: Mapping[str, Call],
    *,
    repeats: int,
    stopwatch: Stopwatch,
    synchronize: Callable[[], None] = no_wait,
    budget_s: float = float("inf"),
) -> dict[str, Samples]:
    """Time the calls in turn, each round starting from another one.

    Args:
        calls: name → call.
        repeats: timed runs of each.
        stopwatch: times one run.
        synchronize: waits for the device.
        budget_s: a call so slow that `repeats` runs would take longer gets fewer, at least 3.

    Returns:
        name → Samples. A call that failed has its error set and no times.

    Raises:
        Exception: what one of our own or a floor raised, other than for want of memory.
    """
    samples = {name: Samples() for name in calls}
    rounds = {}
    for name, call in calls.items():
        try:
            for warmup in range(WARMUPS):
                call.before(warmup)
                start = time.perf_counter()
                call.run(warmup)
                synchronize()
                seconds = time.perf_counter() - start
                if warmup == 0:
                    samples[name].first_s = seconds
        except torch.OutOfMemoryError:
            samples[name].error = "out of memory"
            continue
        except Exception as error:  # a peer that cannot run here must not end the benchmark
            if name.startswith(NEEDED):
                raise
            samples[name].error = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        affordable = max(FEWEST_REPEATS, budget_s / max(seconds, 1e-9))
        rounds[name] = int(min(repeats, affordable))

    for turn in range(max(rounds.values(), default=0)):
        names = rotated([name for name in rounds if turn < rounds[name]], turn)
        pending = {}
        for name in names:
            if calls[name].settle:
                calls[name].before(turn + 1)
                calls[name].run(turn + 1)
            calls[name].before(turn)
            pending[name] = stopwatch(partial(calls[name].run, turn))
        synchronize()
        for name, read in pending.items():
            samples[name].ms.append(read())
    return samples


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names, cyclically shifted by `turn`, so that none always runs after the same other."""
    shift = turn % len(names)
    return [*names[shift:], *names[:shift]]
