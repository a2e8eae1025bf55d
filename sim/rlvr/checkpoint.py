"""Checkpoints that are whole or absent, and say which run they belong to."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

__all__ = ["load", "save"]


def save(path: Path, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Write in one move: an interruption leaves the previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"settings": settings, "state": state}, partial)
    os.replace(partial, path)


def load(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The state saved at path, or None if there is none.

    Raises:
        ValueError: it was made with other settings, or is no checkpoint.
    """
    if not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint: delete it to begin anew"
        ) from error
    other = {
        name: (saved["settings"].get(name), settings.get(name))
        for name in sorted(settings.keys() | saved["settings"].keys())
        if saved["settings"].get(name) != settings.get(name)
    }
    if other:
        differences = ", ".join(f"{name} was {was}, is {now}" for name, (was, now) in other.items())
        raise ValueError(
            f"{path} belongs to a run with other settings ({differences}): "
            "choose another directory, or start afresh"
        )
    state: dict[str, Any] = saved["state"]
    return state
