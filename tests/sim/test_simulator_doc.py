"""docs/simulator.md: what a reader pastes runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sim.lab.exact import Policy
from sim.lab.experiment import Profile

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")


def _section(heading: str) -> tuple[str, str]:
    """A section, and the file shown in it."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    return section, code


def test_the_documented_task_is_a_task():
    """Catches an import that is missing, and a task that is not what the page says."""
    names = {}
    exec(_section("How to add a task")[1], names)
    task = names["even_arms"]([3, 4])
    success = Policy.of(task.tree, task.start).mean(task.correct.double())
    torch.testing.assert_close(success, torch.full((2, 1), 0.5).double())
    assert not torch.equal(task.correct[0], task.correct[1])


def test_the_documented_claim_is_an_experiment():
    """Catches an import that is missing, and parts that do not fit each other."""
    names = {}
    exec(_section("How to add a claim")[1], names)
    experiment = names["EXPERIMENT"]
    tables = experiment.measure(Profile("quick", 10))
    ((criterion, measured),) = experiment.findings(tables)
    assert criterion.wanted == "> 0.05"
    assert measured.samples == 10
    assert experiment.plot(tables).get_ylabel() == "token entropy, nats"


@pytest.mark.slow
def test_the_documented_command_runs_the_claim(tmp_path):
    """Catches a command or a list of experiments that is not as the page says."""
    section, code = _section("How to add a claim")
    ((arguments, name),) = re.findall(r"^    python (-m sim run (\w+).*)$", section, flags=re.M)
    copy = shutil.copytree(ROOT / "sim", tmp_path / "sim")
    experiments = copy / "lab" / "experiments"
    (experiments / f"{name}.py").write_text(code, encoding="utf-8")
    lists = experiments / "__init__.py"
    text = lists.read_text(encoding="utf-8")
    lists.write_text(re.sub(r"^( +)first_order,$", rf"\g<0>\n\1{name},", text, flags=re.M))
    outcome = subprocess.run(
        [sys.executable, *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "final entropy, DAPO" in (tmp_path / "runs/report" / f"{name}.html").read_text("utf-8")
