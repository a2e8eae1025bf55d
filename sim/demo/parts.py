"""What the demo consists of."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PARTS", "Part"]


class Part(NamedTuple):
    """A command of the demo, and what it leaves behind for the page."""

    name: str
    title: str
    text: str
    arguments: tuple[str, ...]
    """after `python -m`"""
    files: tuple[str, ...]
    """what it writes, files and folders"""
    pictures: tuple[str, ...] = ()
    table: str | None = None
    """a CSV file to show whole"""
    columns: tuple[str, ...] = ()
    """of that file"""
    anew: bool = False
    """it adds to its files: what an interruption left is removed before it runs"""
    environment: tuple[tuple[str, str], ...] = ()


PARTS = (
    Part(
        name="theory",
        title="Theory: the entropy change of a policy-gradient step",
        text="Random tabular softmax policies take one exact gradient step. To first order the "
        "entropy changes by −η·Cov(ln π, Δz/η): large where likely actions are good ones. The "
        "measured change leaves that line by an amount that falls with η².",
        arguments=("sim", "theorem1", "--out", "{out}/theorem1"),
        files=("theorem1",),
        pictures=("theorem1/predicted_measured.png", "theorem1/error_order.png"),
    ),
    Part(
        name="speed",
        title="Speed: log-probability and entropy of every token",
        text="One run, all implementations in turns. The ratio is to a pure read or copy of the "
        "same buffers, which no implementation can beat.",
        arguments=("bench", "--quick", "--csv", "{out}/bench.csv"),
        files=("bench.csv", "selection.csv"),
        table="bench.csv",
        columns=(
            "rows",
            "vocab",
            "dtype",
            "direction",
            "implementation",
            "ms",
            "gb_s",
            "ratio",
            "floor",
        ),
        anew=True,
    ),
    Part(
        name="training",
        title="Training: GRPO and DAPO side by side",
        text="A small transformer, warmed up on sums, learns from verifiable rewards alone. "
        "Log-probabilities, entropies and their gradients come from token_stats.",
        arguments=("sim", "rlvr", "--demo", "--out", "{out}/rlvr"),
        files=("rlvr",),
        pictures=("rlvr/training.png",),
        # Many short parallel regions: threads that spin between them crawl where cores are shared.
        environment=(("OMP_WAIT_POLICY", "passive"),),
    ),
)
