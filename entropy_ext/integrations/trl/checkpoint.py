"""A recipe's state beside TRL's own in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from entropy_ext.integrations.trl.learner import Learner

__all__ = ["load", "save"]

_STATE, _REFERENCE = "recipe_state.pt", "recipe_reference.pt"


def save(folder: Path, learner: Learner, reference: nn.Module | None) -> None:
    """Write the controllers, and the reference if it has been reset since training began.

    Args:
        folder: folder of the checkpoint.
        learner: the learner to save.
        reference: the reference model, if there is one.
    """
    torch.save(learner.state_dict(), folder / _STATE)
    if learner.reference_moved:
        assert reference is not None
        torch.save(reference.state_dict(), folder / _REFERENCE)


def load(folder: Path, learner: Learner, reference: nn.Module | None) -> None:
    """Restore what `save` wrote.

    Raises:
        FileNotFoundError: the checkpoint was not made with a recipe.
        ValueError: it was made with another.
    """
    if not (folder / _STATE).exists():
        raise FileNotFoundError(
            f"{folder} has no {_STATE}: it was not saved by a trainer with recipe="
            f"{learner.recipe.name!r}, so its controllers cannot be restored"
        )
    state: dict[str, Any] = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    learner.load_state_dict(state)
    if learner.reference_moved:
        assert reference is not None
        weights = torch.load(folder / _REFERENCE, map_location="cpu", weights_only=True)
        reference.load_state_dict(weights)
