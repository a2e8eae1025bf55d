"""Faults planted one at a time in a copy of the kernels, each of which the tests have to catch.

A fault is a replacement of text that occurs exactly once; when a kernel changes so that it does
not, the test fails and the fault wants planting anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.simt import toolchain
from tests.simt.emulator import KernelError
from tests.simt.toolchain import QUICK, Variant


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    right: str
    wrong: str
    variant: Variant = QUICK


def copy_sources(folder: Path) -> Path:
    """csrc/ of its own."""
    return Path(shutil.copytree(toolchain.CSRC, folder / "csrc"))


def plant(fault: Fault, csrc: Path) -> None:
    path = csrc / fault.file
    text = path.read_text()
    found = text.count(fault.right)
    assert found == 1, f"{fault.file} holds {found} times, not once: {fault.right!r}"
    path.write_text(text.replace(fault.right, fault.wrong))


def assert_caught(fault: Fault, driver: Path, checks: Iterable[Callable[[Path], object]]) -> None:
    """That one of the checks fails on the driver."""
    for check in checks:
        try:
            check(driver)
        except (AssertionError, KernelError):
            return
    pytest.fail(f"nothing caught: {fault.name}")
