"""Live bars: one for the warm-up, one per recipe, each with the latest measures."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["live_progress", "measures", "preparation"]


def live_progress(console: Console | None) -> Progress:
    """A progress display with a `live` text field per task; silent without a console."""
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[live]}"),
        console=console,
        disable=console is None,
    )


def measures(row: dict[str, float]) -> str:
    """Reward, entropy, divergence from the start and clipped share, for one line."""
    return (
        f"reward {row['reward']:.3f}  entropy {row['entropy']:.3f}  "
        f"KL {row['kl_reference']:.3f}  clipped {row['clip_fraction']:.1%}"
    )


def preparation(left: int, row: dict[str, float]) -> str:
    """What is left to do before the first step, and how a value head does that is trained there."""
    value = row.get("explained_variance")
    head = "" if value is None else f"  value head explains {value:.1%}"
    return f"preparing, {left} to go{head}"
