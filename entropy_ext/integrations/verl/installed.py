"""Checks of the installed verl."""

from __future__ import annotations

import importlib.metadata
import re

__all__ = ["FIRST", "UNTESTED", "check_version", "require_verl"]

FIRST, UNTESTED = "0.9", "0.10"
"""the first version this was tested with, and the first it was not"""


def require_verl() -> None:
    """Raise ImportError with instructions unless a tested version of verl is installed."""
    try:
        version = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            f"entropy_ext.integrations.verl needs verl: pip install 'verl>={FIRST},<{UNTESTED}'"
        ) from None
    check_version(version)


def check_version(version: str) -> None:
    """Raise ImportError unless FIRST ≤ version < UNTESTED."""
    if not _release(FIRST) <= _release(version) < _release(UNTESTED):
        raise ImportError(
            f"entropy_ext.integrations.verl reaches into verl's registries and engines and was "
            f"tested with verl>={FIRST},<{UNTESTED}; this is {version}: "
            f"pip install 'verl>={FIRST},<{UNTESTED}'"
        )


def _release(version: str) -> tuple[int, int]:
    """Major and minor number; a pre-release counts as the release that it precedes."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise ImportError(f"verl: expected a version such as {FIRST}, got {version!r}")
    return int(found[1]), int(found[2])
