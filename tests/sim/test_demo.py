"""The demo: what is kept, what is done again, what is moved aside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from sim.__main__ import app
from sim.demo import command, folder, page
from sim.demo.parts import PARTS, Part

SCRIPT = """
import pathlib, sys

file = pathlib.Path(sys.argv[1])
file.parent.mkdir(exist_ok=True)
file.open("a").write("run\\n")
raise SystemExit(int(pathlib.Path(__file__).with_name(file.name + ".status").read_text()))
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Runs a demo of two parts, which write a line each time they run and exit as they are told."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "one_part.py").write_text(SCRIPT)
    parts = tuple(
        Part(
            name=name,
            title=f"Part {name}",
            text="",
            arguments=("one_part", f"{{out}}/{name}"),
            files=(name,),
            anew=name == "b",
            environment=(("PYTHONPATH", str(code)),),
        )
        for name in "ab"
    )
    for module in (command, folder, page):
        monkeypatch.setattr(module, "PARTS", parts)
    monkeypatch.setattr(command, "stamp", lambda: "this version")
    out = tmp_path / "demo"

    def run(*options, **status):
        for name in "ab":
            (code / f"{name}.status").write_text(str(status.get(name, 0)))
        result = CliRunner().invoke(app, ["demo", "--out", str(out), *options])
        lines = [(out / name).read_text().count("run") for name in "ab" if (out / name).exists()]
        return result, lines

    run.out = out
    return run


def test_an_interrupted_demo_goes_on_with_the_part_it_stopped_in(demo):
    """Catches finished parts done twice, an unfinished one taken as done or added to."""
    result, lines = demo(b=130)
    assert (result.exit_code, lines) == (130, [1, 1])
    assert "exit status 130" in (demo.out / "report.html").read_text()
    result, lines = demo()
    assert (result.exit_code, lines) == (0, [1, 1])
    assert result.output.count("Done before") == 1
    result, lines = demo()
    assert result.output.count("Done before") == 2
    text = (demo.out / "report.html").read_text()
    assert "Part a" in text
    assert "Part b" in text
    assert "exit status" not in text


def test_a_part_that_failed_or_whose_files_are_gone_runs_again(demo):
    """Catches a failure remembered as success, and a page without what it should show."""
    assert demo(a=1)[0].exit_code == 1
    assert demo()[1] == [2, 1]
    (demo.out / "b").unlink()
    assert demo()[1] == [2, 1]


@pytest.mark.parametrize("record", ["another", "none", "broken"])
def test_results_of_another_version_are_moved_aside(demo, monkeypatch, record):
    """Catches an error, a mixture of two versions, results lost, strangers' files moved."""
    demo()
    if record == "another":
        monkeypatch.setattr(command, "stamp", lambda: "the next version")
    elif record == "none":
        (demo.out / "done.json").unlink()
    else:
        (demo.out / "done.json").write_text('{"stamp": "this')
    (demo.out / "notes.txt").write_text("mine")
    result, lines = demo()
    assert (result.exit_code, lines) == (0, [1, 1])
    assert "Done before" not in result.output
    (aside,) = demo.out.glob("earlier-*")
    assert aside.name in result.output.replace("\n", "")
    assert [(aside / name).read_text() for name in "ab"] == ["run\n", "run\n"]
    assert "Part b" in (aside / "report.html").read_text()
    assert not (aside / "notes.txt").exists()
    assert (demo.out / "notes.txt").read_text() == "mine"


def test_fresh_does_all_again(demo):
    """Catches an option that keeps what is done, or that throws it away."""
    demo()
    result, lines = demo("--fresh")
    assert (result.exit_code, lines) == (0, [1, 1])
    assert "Done before" not in result.output
    assert len(list(demo.out.glob("earlier-*/a"))) == 1


def test_results_are_moved_aside_where_earlier_ones_have_the_same_date(demo):
    """Catches a folder that can never be used again, and results that overwrite others."""
    demo()
    for path in demo.out.iterdir():
        os.utime(path, (0, 0))
    demo("--fresh")
    for path in demo.out.iterdir():
        os.utime(path, (0, 0))
    result, lines = demo("--fresh")
    assert (result.exit_code, lines) == (0, [1, 1])
    assert len(list(demo.out.glob("earlier-*/a"))) == 2


def test_a_second_demo_in_the_same_folder_is_refused(demo):
    """Catches two demos that write into each other's files."""
    demo()
    other = folder.Folder(demo.out, "this version")
    other.begin()
    result, lines = demo("--fresh")
    assert result.exit_code == 2
    assert "another demo is writing" in " ".join(result.output.replace("│", "").split())
    assert lines == [1, 1]
    other.release()
    assert demo()[0].exit_code == 0


SLOW = """
import pathlib, sys, time

file = pathlib.Path(sys.argv[1])
try:
    file.write_text("started")
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    file.write_text("saved")
    raise SystemExit(130)
"""


def test_ctrl_c_leaves_a_part_the_time_to_save(tmp_path):
    """Catches a part killed while it saves what it has trained."""
    (tmp_path / "slow_part.py").write_text(SLOW)
    script = (
        "from pathlib import Path; from sim.demo import command; from sim.demo.parts import Part;"
        "part = Part('a', '', '', arguments=('slow_part', '{out}/a'), files=('a',));"
        "print(command._run(part, Path('.')))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job may ignore it
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "a").exists() or (tmp_path / "a").read_text() != "started":
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (tmp_path / "a").read_text() == "saved"
    assert "130" in output


def test_the_stamp_knows_code_and_machine(tmp_path, monkeypatch):
    """Catches results of other code, libraries or threads taken for current ones."""
    first = folder.stamp()
    assert folder.stamp() == first
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    second = folder.stamp()
    monkeypatch.setattr(folder, "version", lambda name: "0")
    third = folder.stamp()
    (tmp_path / "library.py").write_text("x = 1\n")
    monkeypatch.setattr(folder.entropy_ext, "__file__", str(tmp_path / "__init__.py"))
    fourth = folder.stamp()
    (tmp_path / "library.py").write_text("x = 2\n")
    assert len({first, second, third, fourth, folder.stamp()}) == 5


def test_parts_name_all_that_they_show():
    """Catches a picture or table that would stay behind when results are moved aside."""
    for part in PARTS:
        shown = [*part.pictures, *([] if part.table is None else [part.table])]
        assert all(name.split("/")[0] in part.files for name in shown)
        assert any(argument.startswith(f"{{out}}/{part.files[0]}") for argument in part.arguments)
