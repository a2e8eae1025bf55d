"""All recipes in one figure: what they gained, and what they paid for it in entropy."""

from __future__ import annotations

from pathlib import Path

from sim.plots import COLOURS, panels, save
from sim.rlvr.records import Records

__all__ = ["plot_comparison"]

PANELS = (
    ("reward", "right answers while training, share", (0.0, None)),
    ("entropy", "mean token entropy, nats", (0.0, None)),
    ("kl_reference", "KL to the policy at the start, nats per token", (0.0, None)),
    ("clip_fraction", "clipped tokens, share", (0.0, None)),
)
SMOOTHING = 5
"""steps in the moving average drawn over the raw values"""


def plot_comparison(records: dict[str, Records], warmup_accuracy: float, path: Path) -> Path:
    """Reward, entropy, divergence and clipping against steps; raw values pale, averages strong.

    Args:
        records: recipe → its rows, at least one each.
        warmup_accuracy: on held-out problems, where the recipes started.
        path: the PNG.

    Returns:
        path.
    """
    axes = panels(2, rows=2, width=5.6, height=3.7)
    for axis, (name, label, limits) in zip(axes, PANELS, strict=True):
        for index, (recipe, rows) in enumerate(records.items()):
            colour = COLOURS[index % len(COLOURS)]
            steps, values = rows.column(name)
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
            axis.plot(steps, _averaged(values), color=colour, linewidth=2, label=recipe)
            if name == "reward":
                at, right = rows.column("held_out")
                axis.plot(
                    [0, *at],
                    [warmup_accuracy, *right],
                    "o--",
                    color=colour,
                    markersize=3.5,
                    linewidth=1,
                    label=f"{recipe}, held-out problems",
                )
        axis.set_xlabel("training step")
        axis.set_ylabel(label)
        axis.set_ylim(*limits)
        axis.set_xlim(left=0)
    axes[0].legend(frameon=False, fontsize="small", loc="best")
    axes[1].legend(frameon=False, fontsize="small", loc="best")
    save(axes[0], path)
    return path


def _averaged(values: list[float]) -> list[float]:
    """Mean of the last SMOOTHING values at each point."""
    windows = [values[max(0, i + 1 - SMOOTHING) : i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
