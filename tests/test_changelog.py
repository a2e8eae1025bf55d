"""The version is one number: in pyproject.toml, the installed package and CHANGELOG.md."""

from __future__ import annotations

import re
from pathlib import Path

import entropy_ext

ROOT = Path(__file__).parent.parent


def test_version_is_the_same_everywhere() -> None:
    """Catches a release that was numbered in one place only."""
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project
    assert entropy_ext.__version__ == project[1]
    assert entropy_ext.backend_info()["version"] == project[1]
    released = re.findall(
        r"^## \[(\d[^]]*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert released
    version, date = released[0]
    assert version == project[1]
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)
