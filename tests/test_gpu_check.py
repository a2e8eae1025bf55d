"""bench/gpu_check.sh where Python, the GPU and the tools are stubs that write down their calls."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import environment

SCRIPT = Path(__file__).parent.parent / "bench" / "gpu_check.sh"
GPU = "nvidia-h100-80gb-hbm3"
STAGES = ["build", "tests", "sanitizer", "bench", "selection", "grid", "head", "roofline"]

# Answers the question about the GPU with $FOUND; then a call is a line in calls. It fails or hangs
# if it is the one that $FAILS or $HANGS is a part of, and measures where it is told to write rows.
PYTHON = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then
    [[ -n $FOUND ]] || exit 1
    printf "$FOUND"
    exit
fi
echo "$*" >>"$CALLS"
while (($#)); do
    [[ $1 == --csv ]] && printf 'ms,date\\n1.5,%s\\n' "$DATE" >>"$2"
    all+=" $1"
    shift
done
[[ -n $HANGS && $all == *"$HANGS"* ]] && sleep 60
[[ -z $FAILS || $all != *"$FAILS"* ]]
"""
SANITIZER = """#!/usr/bin/env bash
echo "compute-sanitizer $*" >>"$CALLS"
"""


class Machine:
    """A copy of the script in a folder of its own, and the stubs it finds."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, root / "calls"
        self.results = root / "bench" / "results"
        self.results.mkdir(parents=True)
        shutil.copy(SCRIPT, root / "bench")
        for name, text in (("python", PYTHON), ("compute-sanitizer", SANITIZER)):
            stub = root / "bin" / name
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(text)
            stub.chmod(0o755)

    def start(self, stages: Sequence[str], **changes: str) -> subprocess.Popen[str]:
        variables = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "PYTHON": "python",
            "CALLS": str(self.calls),
            "FOUND": f"{GPU}\\npython 3.12.3 torch 2.11.0\\n",
            "DATE": "2026-11-23",
            "FAILS": "",
            "HANGS": "",
        }
        return subprocess.Popen(
            [str(self.root / "bench" / "gpu_check.sh"), *stages],
            env=variables | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A job in the background may ignore it, and a shell could not undo that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *stages: str, **changes: str) -> tuple[int, str]:
        """Exit code and output."""
        process = self.start(stages, **changes)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_gpu_nothing_runs(machine: Machine) -> None:
    """Fails if a build or a suite on the CPU is taken for a check of the GPU."""
    code, output = machine.run(FOUND="")
    assert code == 1
    assert "No CUDA GPU that python's torch can use" in output
    assert machine.called() == []


def test_an_unknown_stage_is_refused_before_anything_runs(machine: Machine) -> None:
    """Fails if a misspelt stage is found out after the others have taken their minutes."""
    code, output = machine.run("build", "test")
    assert code == 2
    assert output == f"Unknown stage 'test': expected some of {' '.join(STAGES)}.\n"
    assert machine.called() == []


def test_all_stages_run_in_order_and_rows_join_the_earlier_ones(machine: Machine) -> None:
    """Fails if a stage is lost, tests run on the CPU, or a second run drops or doubles rows."""
    for date in ("2026-11-23", "2026-11-24"):
        code, output = machine.run(DATE=date)
        assert code == 0, output
        shutil.rmtree(machine.root / "runs")  # the next run may come with an empty folder
    calls = machine.called()
    beginnings = [
        "-m pip install",
        "-m bench.sanitizer_cases",
        "-m pytest",
        "compute-sanitizer --tool memcheck",
        "compute-sanitizer --tool racecheck",
        "compute-sanitizer --tool synccheck",
        "compute-sanitizer --tool initcheck",
        "-m bench --device cuda",
        "-m bench.selection_bench --device cuda",
        "-m bench --device cuda",
        "-m bench.linear_head --device cuda",
        "-m bench.linear_head --device cuda",
        "-m bench.roofline",
    ]
    assert len(calls) == 2 * len(beginnings)
    assert all(call.startswith(begins) for call, begins in zip(calls, beginnings * 2, strict=True))
    for name in (GPU, f"selection-{GPU}", f"linear-head-{GPU}"):
        rows = (machine.results / f"{name}.csv").read_text().splitlines()
        assert rows == ["ms,date", "1.5,2026-11-23", "1.5,2026-11-24"]


@pytest.mark.parametrize(
    ("stage", "fails", "told"),
    [
        ("build", "bench.sanitizer_cases", "every kernel once"),
        ("tests", "-m pytest", "tests"),
        ("head", "bench.linear_head", "head 896 head 4096"),
    ],
)
def test_a_failure_is_told_and_the_others_still_run(
    machine: Machine, stage: str, fails: str, told: str
) -> None:
    """Fails if one stage ends the rest, or its failure is lost in the exit code."""
    code, output = machine.run(stage, "roofline", FAILS=fails)
    assert code == 1
    assert ": FAILED after" in output
    assert machine.called()[-1].startswith("-m bench.roofline")
    assert output.endswith(f"Not passed: {told}\n")


def test_after_a_failed_build_nothing_runs(machine: Machine) -> None:
    """Fails if an older module is tested in place of the one that does not compile."""
    code, output = machine.run(FAILS="-m pip")
    assert code == 1
    assert output.endswith("The build failed: nothing else was run.\n")
    assert len(machine.called()) == 1


def test_a_build_is_not_blamed_for_an_earlier_stage(machine: Machine) -> None:
    """Fails if stages after a build that passed are left out because tests before it failed."""
    code, output = machine.run("tests", "build", "head", FAILS="-m pytest")
    assert code == 1
    assert "The build failed" not in output
    assert "== head 896: passed" in output


def test_a_build_that_cannot_start_ends_the_run(machine: Machine) -> None:
    """Fails if an older module is tested because a package for the build is missing."""
    code, output = machine.run("build", "tests", FOUND=f"{GPU}\\nversions\\npybind11\\n")
    assert code == 1
    assert "== build: LEFT OUT for want of pybind11" in output
    assert not machine.called()


@pytest.mark.parametrize(
    ("variables", "words"),
    [({"PYTHON": "/no/python"}, "PYTHON: expected"), ({"LIMIT": "long"}, "LIMIT: expected")],
)
def test_wrong_variables_are_named(machine: Machine, variables: dict[str, str], words: str) -> None:
    """Fails if a mistyped interpreter is told as a missing GPU, or a limit as a shell's error."""
    code, output = machine.run(**variables)
    assert code == 2
    assert words in output


def test_stages_that_need_no_missing_package_run(machine: Machine) -> None:
    """Fails if a missing package shows as a stage's crash, or keeps the others from running."""
    code, output = machine.run(
        "tests", "selection", "sanitizer", FOUND=f"{GPU}\\nversions\\nhypothesis typer\\n"
    )
    assert code == 1
    advice = "Missing: hypothesis typer. To install: python -m pip install hypothesis typer"
    assert advice in output.split("==")[0]
    assert "== tests: LEFT OUT for want of hypothesis" in output
    assert "== selection: LEFT OUT for want of typer" in output
    assert len(machine.called()) == 4
    assert output.endswith("Not passed: tests selection\n")


def test_a_hanging_stage_is_stopped_and_its_rows_are_kept(machine: Machine) -> None:
    """Fails if one stage takes the time of all, or what it measured is lost with it."""
    code, output = machine.run("bench", "selection", HANGS="-m bench --device", LIMIT="3")
    assert code == 1
    assert "== bench: STOPPED at its limit, after" in output
    assert "== selection: LEFT OUT, all 3 s are over" in output
    assert (machine.results / f"{GPU}.csv").read_text() == "ms,date\n1.5,2026-11-23\n"


def test_ctrl_c_ends_the_stage_too(machine: Machine) -> None:
    """Fails if an interrupted script leaves the suite running on the GPU."""
    process = machine.start(["tests"], HANGS="-m pytest")
    while not machine.called():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    # The pipe closes when the last process that holds it has ended, the stage's own included.
    process.communicate(timeout=10)
    assert process.returncode == 130


def test_a_copy_without_git_knows_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if rows that were measured on a borrowed machine lose what they were measured of."""
    monkeypatch.setattr(environment, "first_line", lambda *command: "")
    monkeypatch.delenv("ENTROPY_EXT_COMMIT", raising=False)
    assert environment.commit() == ""
    monkeypatch.setenv("ENTROPY_EXT_COMMIT", "0a1b2c3")
    assert environment.commit() == "0a1b2c3"
