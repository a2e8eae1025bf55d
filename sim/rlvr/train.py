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
    on_preparation: Callable[[int, dict[str, float]], None],
    on_step: Callable[[dict[str, float]], None],
) -> Records:
    """Run the trainer's remaining steps, starting from the directory's checkpoint if it has one.

    Args:
        trainer: at its first step; the checkpoint is loaded into it.
        held_out: problems to measure accuracy on.
        directory: of checkpoint.pt, steps.csv, and value_pretraining.csv if there is any.
        settings: the checkpoint's label: one with another label is refused.
        seed: of the accuracy samples.
        evaluate_every: steps between two measurements of accuracy; the last step has one.
        checkpoint_every: steps between two checkpoints; the last step has one.
        interrupt: looked at after every step.
        on_preparation: called with the number of preparations left, and the measures of the last.
        on_step: called with the row of each step, those read back included.
    """
    path = directory / "checkpoint.pt"
    if (state := checkpoint.load(path, settings)) is not None:
        trainer.load_state_dict(state)
    directory.mkdir(parents=True, exist_ok=True)

    def validate() -> float:
        # A generator of its own: measuring must not change what is trained.
        generator = torch.Generator().manual_seed(seed)
        return accuracy(
            trainer.model,
            held_out,
            Sampling(),
            generator=generator,
            max_length=trainer.collector.max_length,
        )

    _prepare(trainer, path, settings, checkpoint_every, interrupt, on_preparation)
    records = Records(directory / "steps.csv", keep=trainer.done)
    for done in records.rows:
        on_step(done)
    while trainer.done < trainer.steps and not interrupt.requested:
        started = time.monotonic()
        number = trainer.done + 1
        last = number == trainer.steps
        measured = last or number % evaluate_every == 0
        row = {"step": float(number), **trainer.step(validate if measured else None)}
        row["seconds"] = round(time.monotonic() - started, 3)
        records.append(row)
        if last or interrupt.requested or number % checkpoint_every == 0:
            checkpoint.save(path, settings, trainer.state_dict())
        on_step(row)
    if interrupt.requested and records.rows:
        checkpoint.save(path, settings, trainer.state_dict())
    return records


def _prepare(
    trainer: Trainer,
    path: Path,
    settings: dict[str, Any],
    checkpoint_every: int,
    interrupt: Interrupt,
    report: Callable[[int, dict[str, float]], None],
) -> None:
    """What comes before the first step, resumable as the steps are."""
    if trainer.recipe.value_pretraining > 0:
        records = Records(
            path.parent / "value_pretraining.csv", keep=trainer.pretrained, columns=("step",)
        )
    while (left := trainer.preparations) > 0 and not interrupt.requested:
        measures = trainer.prepare()
        if measures:
            records.append({"step": float(trainer.pretrained), **measures})
        report(left - 1, measures)
        if interrupt.requested or (left - 1) % checkpoint_every == 0:
            checkpoint.save(path, settings, trainer.state_dict())
