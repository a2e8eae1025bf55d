"""TRL's GRPOTrainer with token statistics in float32 and any recipe by name."""

from __future__ import annotations

from entropy_ext.integrations.trl.arguments import config_arguments
from entropy_ext.integrations.trl.needs import Refusal, refusals, requirements
from entropy_ext.integrations.trl.trainer import GRPOTrainer

__all__ = ["GRPOTrainer", "Refusal", "config_arguments", "refusals", "requirements"]
