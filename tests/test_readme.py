"""The README's examples are run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_usage_example_is_short_and_works() -> None:
    """Catches an example that no longer runs, or has grown past what fits in one look."""
    example = EXAMPLES[0]
    code = [line for line in example.splitlines() if line.strip()]
    assert len(code) <= 15
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.float32 torch.Size([2, 5]) torch.bfloat16\n"


@pytest.mark.parametrize("index", range(1, len(EXAMPLES)))
def test_other_examples_work(index: int) -> None:
    """Catches a renamed function or recipe."""
    done = subprocess.run([sys.executable, "-c", EXAMPLES[index]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_name_what_exists() -> None:
    """Catches a make target or a folder that the README promises and the tree lacks."""
    root = Path(__file__).parent.parent
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE)) <= targets
    for path in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / path).exists(), path
