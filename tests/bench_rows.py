"""Rows of the benchmark for its tests."""

from __future__ import annotations

from dataclasses import replace

from bench.results import Result


def row(**changes: object) -> Result:
    """A row as the reference point gives it, with the given fields changed."""
    plain = Result(
        rows=512, vocab=151936, dtype="float32", direction="forward", implementation="ours",
        bytes=311_164_928, ms=10.0, ms_p20=9.0, ms_p80=11.0, gb_s=31.1, floor="read", ratio=1.2,
        extra_mb=0.1, first_s=0.1, repeats=7, note="", date="", commit="", device="", threads=2,
        isa="v4", torch="", compiler="", cuda="",
    )  # fmt: skip
    return replace(plain, **changes)
