"""The loop around the steps: records, checkpoints, progress, and stopping between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from entropy_ext.recipes import Sampling
from sim.rlvr import checkpoint
from sim.rlvr.evaluate import accuracy
from sim.rlvr.interrupt import Interrupt
from sim.rlvr.records import Records
from sim.rlvr.task import ChainSum
from sim.rlvr.trainer import Trainer

__all__ = ["train"]


def train(
    trainer: Trainer,
    held_out: ChainSum,
    directory: Path,
    *,
    settings: dict[str, Any],
    seed: int,
    evaluate_every: int,
    checkpoint_every: int,
    interrupt: Interrupt,
    on_step: Callable[[dict[str, float]], None],
) -> Records:
    """Run the trainer's remaining steps, starting from the directory's checkpoint if it has one.

    Args:
        trainer: at its first step; the checkpoint is loaded into it.
        held_out: problems to measure accuracy on.
        directory: of checkpoint.pt and steps.csv.
        settings: the checkpoint's label: one with another label is refused.
        seed: of the accuracy samples.
        evaluate_every: steps between two measurements of accuracy; the last step has one.
        checkpoint_every: steps between two checkpoints; the last step has one.
        interrupt: looked at after every step.
        on_step: called with the row of each step, those read back included.
    """
    path = directory / "checkpoint.pt"
    if (state := checkpoint.load(path, settings)) is not None:
        trainer.load_state_dict(state)
    directory.mkdir(parents=True, exist_ok=True)
    records = Records(directory / "steps.csv", keep=trainer.done)
    for done in records.rows:
        on_step(done)
    while trainer.done < trainer.steps and not interrupt.requested:
        started = time.monotonic()
        row: dict[str, float] = {"step": trainer.done + 1, **trainer.step()}
        row["seconds"] = round(time.monotonic() - started, 3)
        last = trainer.done == trainer.steps
        if last or trainer.done % evaluate_every == 0:
            # A generator of its own: measuring must not change what is trained.
            generator = torch.Generator().manual_seed(seed)
            row["held_out"] = accuracy(trainer.model, held_out, Sampling(), generator=generator)
        records.append(row)
        if last or interrupt.requested or trainer.done % checkpoint_every == 0:
            checkpoint.save(path, settings, trainer.state_dict())
        on_step(row)
    if interrupt.requested and records.rows:
        checkpoint.save(path, settings, trainer.state_dict())
    return records
