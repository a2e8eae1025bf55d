"""docs/numerics.md names the test of every statement: those tests must exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_named_tests_exist() -> None:
    """Catches a renamed or deleted test that the page still offers as proof."""
    text = (ROOT / "docs" / "numerics.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 30
    for file, name in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in defined, f"{file}::{name}"


def test_every_contract_test_is_named() -> None:
    """Catches a new test of the contract or of reproducibility that the page does not tell of."""
    text = (ROOT / "docs" / "numerics.md").read_text()
    for file in ("test_token_stats_contract.py", "test_token_stats_bitwise.py"):
        tree = ast.parse((ROOT / "tests" / file).read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert f"{file}::{node.name}" in text, node.name
