"""The core of the suite once more under every instruction set that the processor has.

ENTROPY_EXT_ISA is read when the module loads, so each run is a process of its own.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from entropy_ext import backend_info
from tests.conftest import DEVICES_VARIABLE

ROOT = Path(__file__).parents[1]
CORE = sorted(
    path.name
    for kind in ("token_stats", "selection")
    for path in Path(__file__).parent.glob(f"test_{kind}_*.py")
)
# What each level adds, as Linux names it (x86-64 psABI; abm is LZCNT).
LEVELS = {
    "v2": {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"},
    "v3": {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"},
    "v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


def missing(level: str) -> str:
    """What the processor lacks for `level`; empty where it lacks nothing."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"the levels are of x86-64, this is {platform.machine()}"
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return "no /proc/cpuinfo to read the processor's flags from"
    flags = set(re.search(r"^flags\s*:(.*)$", info.read_text(), re.MULTILINE)[1].split())
    names = list(LEVELS)
    wanted = set().union(*(LEVELS[name] for name in names[: names.index(level) + 1]))
    lacking = sorted(wanted - flags)
    return f"the processor lacks {', '.join(lacking)}" if lacking else ""


def python(*arguments: str, isa: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ENTROPY_EXT_ISA": isa, DEVICES_VARIABLE: "cpu"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_core_under(level: str) -> None:
    """Catches a vector width, a tail or a fused operation that only one level gets wrong."""
    if lacking := missing(level):
        pytest.skip(lacking)
    if level == backend_info()["cpu_isa"]:
        pytest.skip(f"{level} is what this process runs on: the suite itself is that run")
    tests = [f"tests/{name}" for name in CORE]
    done = python("-m", "pytest", "-m", "isa", "-p", "no:cacheprovider", *tests, isa=level)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"CPU instruction set {level};" in done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 500


def test_levels_that_the_processor_lacks_are_refused() -> None:
    """Catches an illegal instruction in place of an error."""
    lacking = [level for level in LEVELS if missing(level)]
    if not lacking:
        pytest.skip(f"the processor has {', '.join(LEVELS)}")
    for level in lacking:
        done = python("-c", "import entropy_ext; print(entropy_ext.backend_info())", isa=level)
        assert done.returncode == 1
        assert f"ENTROPY_EXT_ISA={level}" in done.stderr


def test_an_unknown_level_is_refused() -> None:
    """A typo must not quietly mean the default."""
    done = python("-c", "import entropy_ext", isa="avx9")
    assert done.returncode == 1
    assert "ENTROPY_EXT_ISA=avx9" in done.stderr
    assert "v3" in done.stderr
