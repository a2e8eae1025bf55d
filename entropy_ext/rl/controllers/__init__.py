"""Controllers: they move a coefficient, or reset the reference, from step to step."""

from entropy_ext.rl.controllers.adaptive_entropy import AdaptiveEntropy, EntropyGate
from entropy_ext.rl.controllers.base import Controller
from entropy_ext.rl.controllers.pi import EntropyPI
from entropy_ext.rl.controllers.reference_reset import ReferenceReset
from entropy_ext.rl.controllers.schedules import EntropyGuided, epoch_weight, stage_weight
from entropy_ext.rl.controllers.step_seed import StepSeed

__all__ = [
    "AdaptiveEntropy",
    "Controller",
    "EntropyGate",
    "EntropyGuided",
    "EntropyPI",
    "ReferenceReset",
    "StepSeed",
    "epoch_weight",
    "stage_weight",
]
