"""Time every implementation on one shape, interleaved with a read and a copy of the same bytes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import asdict

import torch

from bench.candidates import (
    DTYPES,
    FORWARD_ONLY,
    KEPT_IDS,
    Calls,
    Shape,
    available,
)
from bench.environment import environment
from bench.memory import peak_extra_bytes
from bench.results import Result, useful_bytes
from bench.timing import Call, Samples, Stopwatch, cpu_stopwatch, cuda_stopwatch, round_robin

__all__ = ["measure"]

FLOORS = {"forward": "read", "backward": "copy", "forward+backward": "read+copy"}
"""What a pass is compared with: it moves as many bytes and computes nothing."""

WITH_BACKWARD = ("ours", "ours+support")
"""Whose backward kernel can be run alone."""

NOTES = {
    "ours+extras": "all seven outputs",
    "ours+support": f"also over {KEPT_IDS} kept ids a row",
    "ours-in-cache": "one row N times: arithmetic alone",
    "liger": "log-probability only",
    "softmax": "torch.softmax: probabilities only",
}


def measure(
    shape: Shape,
    directions: Collection[str],
    *,
    device: torch.device,
    repeats: int,
    only: Collection[str] | None = None,
    budget_s: float = float("inf"),
) -> Iterator[list[Result]]:
    """Time passes of one shape. Yields the rows of each pass as it is done.

    Args:
        shape: rows, vocabulary and dtype.
        directions: of results.PASSES. "backward" is our kernel alone: the other implementations
            have none that writes into given memory.
        device: cpu or cuda.
        repeats: timed runs of each implementation.
        only: names from IMPLEMENTATIONS; None for all that run here.
        budget_s: see timing.round_robin.
    """
    names = [name for name in available(device) if only is None or name in only]
    calls = Calls(shape, device)
    stopwatch: Stopwatch = cpu_stopwatch
    if device.type == "cuda":
        stopwatch = cuda_stopwatch(device)
    for direction in directions:
        floors = {"read": calls.read, "copy": calls.copy}
        timed = {name: floors[name]() for name in FLOORS[direction].split("+")}
        timed |= implementations(calls, direction, names)
        samples = round_robin(
            timed,
            repeats=repeats,
            stopwatch=stopwatch,
            synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
            budget_s=budget_s,
        )
        extra = {
            name: None if samples[name].error else peak_extra(call, device)
            for name, call in timed.items()
        }
        yield results_of(shape, direction, samples, extra, device)


def implementations(calls: Calls, direction: str, names: Collection[str]) -> dict[str, Call]:
    """The calls of a pass, for those of the implementations that have it."""
    if direction == "forward":
        return {name: calls.forward(name) for name in names}
    if direction == "backward":
        return {name: calls.backward(name) for name in names if name in WITH_BACKWARD}
    return {name: calls.forward_backward(name) for name in names if name not in FORWARD_ONLY}


def peak_extra(call: Call, device: torch.device) -> int | None:
    """Peak extra memory of one more, untimed run."""
    call.before(0)
    return peak_extra_bytes(lambda: call.run(0), device)


def results_of(
    shape: Shape,
    direction: str,
    samples: dict[str, Samples],
    extra: dict[str, int | None],
    device: torch.device,
) -> list[Result]:
    """Turn the samples of one pass into rows, the ratio to the floor included."""
    itemsize = DTYPES[shape.dtype].itemsize
    floor_ms = sum(samples[part].quantile(0.5) for part in FLOORS[direction].split("+"))
    shared = asdict(environment(device))
    rows = []
    for name, sample in samples.items():
        # A floor moves its own bytes, whatever pass it stands beside.
        moved = {"read": "forward", "copy": "backward"}.get(name, direction)
        traffic = useful_bytes(moved, shape.rows, shape.vocab, itemsize)
        ms, peak = sample.quantile(0.5), extra[name]
        rows.append(
            Result(
                rows=shape.rows,
                vocab=shape.vocab,
                dtype=shape.dtype,
                direction=direction,
                implementation=name,
                bytes=traffic,
                ms=ms,
                ms_p20=sample.quantile(0.2),
                ms_p80=sample.quantile(0.8),
                gb_s=traffic / ms / 1e6,  # bytes per ms, over 10⁶, is 10⁹ bytes per second
                floor=FLOORS[direction],
                ratio=ms / floor_ms,
                extra_mb=math.nan if peak is None else peak / 1e6,
                first_s=sample.first_s,
                repeats=len(sample.ms),
                note=sample.error or NOTES.get(name, ""),
                **shared,
            )
        )
    return rows
