"""entropy_ext in verl: policy losses, advantage estimators, the actor hook and token functions.

verl is not imported before a function of this package is called.
"""

from __future__ import annotations

from entropy_ext.integrations.verl.actor import Actor
from entropy_ext.integrations.verl.coverage import COVERAGE, Coverage
from entropy_ext.integrations.verl.functions import (
    replace_token_functions,
    restore_token_functions,
)
from entropy_ext.integrations.verl.register import attach, register, unregister

__all__ = [
    "COVERAGE",
    "Actor",
    "Coverage",
    "attach",
    "register",
    "replace_token_functions",
    "restore_token_functions",
    "unregister",
]
