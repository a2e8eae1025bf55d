"""Checks of the installed TRL: its version, and the methods that are overridden here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from packaging.version import Version

try:
    import trl
    from trl import GRPOConfig
    from trl import GRPOTrainer as TRLTrainer
    from trl.trainer.callbacks import SyncRefModelCallback
    from trl.trainer.utils import FusedCausalLMOutput
except ModuleNotFoundError as error:
    raise ImportError(
        "entropy_ext.integrations.trl needs TRL: pip install 'entropy_ext[trl]'"
    ) from error

__all__ = [
    "FIRST",
    "OVERRIDDEN",
    "UNTESTED",
    "FusedCausalLMOutput",
    "GRPOConfig",
    "SyncRefModelCallback",
    "TRLTrainer",
    "check_methods",
    "check_version",
]

FIRST, UNTESTED = "1.15", "1.17"
"""the first version this was tested with, and the first it was not"""

OVERRIDDEN: dict[str, tuple[str, ...]] = {
    "_get_per_token_logps_and_entropies": (
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
    ),
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_compute_loss": ("self", "model", "inputs"),
    "_save_checkpoint": ("self", "model", "trial"),
    "_load_optimizer_and_scheduler": ("self", "checkpoint"),
    "log": ("self", "logs"),
}
"""private methods of TRL's trainer that are overridden, with their first parameters"""


def check_version(version: str) -> None:
    """Raise ImportError unless FIRST ≤ version < UNTESTED."""
    # A pre-release counts as the release that it precedes.
    if not Version(FIRST) <= Version(Version(version).base_version) < Version(UNTESTED):
        raise ImportError(
            f"entropy_ext.integrations.trl overrides private methods of TRL and was tested with "
            f"trl>={FIRST},<{UNTESTED}; this is {version}: pip install 'trl>={FIRST},<{UNTESTED}'"
        )


def check_methods(methods: Mapping[str, Callable[..., object] | None]) -> None:
    """Raise ImportError unless each overridden method exists with the expected parameters."""
    for name, expected in OVERRIDDEN.items():
        method = methods.get(name)
        if method is None:
            raise ImportError(f"trl {trl.__version__}: GRPOTrainer has no method {name}")
        found = tuple(inspect.signature(method).parameters)
        if found[: len(expected)] != expected:
            raise ImportError(
                f"trl {trl.__version__}: GRPOTrainer.{name}: expected the parameters "
                f"{', '.join(expected)}, got {', '.join(found)}"
            )


check_version(trl.__version__)
check_methods({name: getattr(TRLTrainer, name, None) for name in OVERRIDDEN})
