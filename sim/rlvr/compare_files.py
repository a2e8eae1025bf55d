"""Where a comparison's results are, and that they are those of its settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["read", "run_directory", "start_file", "write"]


def run_directory(out: Path, task: str, seed: int, name: str) -> Path:
    """Where one run's files are."""
    return out / task / f"seed{seed}" / name


def start_file(out: Path, task: str, seed: int) -> Path:
    """Where the measures of the policy are that all recipes start from."""
    return out / task / f"seed{seed}" / "start.json"


def read(path: Path, label: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is stored, or None: nothing, or that of a shorter run of the same settings.

    Raises:
        ValueError: it is that of other settings, or cannot be read.
    """
    if not path.exists():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        found = stored["label"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: delete it to have it made anew") from error
    other = sorted(_differences(found, label))
    if other == ["steps"] and found["steps"] < label["steps"]:
        return None
    if other:
        raise ValueError(
            f"{path} belongs to a comparison with other settings ({', '.join(other)}): "
            "choose another directory"
        )
    return stored


def write(path: Path, values: Mapping[str, Any]) -> None:
    """In one move: an interruption leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values))
    os.replace(partial, path)


def _differences(stored: Mapping[str, Any], label: Mapping[str, Any]) -> Iterator[str]:
    # What was read back has been through JSON: lists for tuples.
    now = json.loads(json.dumps(label))
    for name in stored.keys() | now.keys():
        if stored.get(name) != now.get(name):
            yield name
