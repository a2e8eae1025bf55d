"""Runs of the benchmark: its grid, its rows and CSV file, its command line."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench import __main__ as command_line
from bench.candidates import Shape
from bench.grid import grid, run
from bench.results import append_csv, read_csv, useful_bytes
from entropy_ext import backend_info
from tests.bench_rows import row as row_of

REPOSITORY = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def test_a_tiny_run_reaches_the_csv_whole(tmp_path: Path) -> None:
    """Fails if a row is lost, mislabelled, or its derived columns contradict its times."""
    shape = Shape(4, 515, "bfloat16")
    wanted = ("ours", "ours+extras", "ours+support", "eager", "trl", "verl")
    rows = [row for batch in run([shape], device=CPU, repeats=3, only=wanted) for row in batch]
    assert [(row.direction, row.implementation) for row in rows] == [
        *(("forward", name) for name in ("read", *wanted)),
        *(("backward", name) for name in ("copy", "ours", "ours+support")),
        *(("forward+backward", n) for n in ("read", "copy", *wanted) if n != "ours+extras"),
    ]
    logits = 4 * 515 * 2
    for row in rows:
        assert row.ms_p20 <= row.ms <= row.ms_p80
        assert row.gb_s == pytest.approx(row.bytes / row.ms / 1e6)
        moved = {"read": logits, "copy": 2 * logits}.get(
            row.implementation, useful_bytes(row.direction, 4, 515, 2)
        )
        assert row.bytes == moved
        assert (row.isa, row.threads) == (backend_info()["cpu_isa"], torch.get_num_threads())
        assert row.torch == torch.__version__

    path = tmp_path / "new" / "rows.csv"
    append_csv(path, rows[:5])
    append_csv(path, rows[5:])
    with path.open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(rows)
    for kept, row in zip(read_csv(path), rows, strict=True):
        assert kept.problem == row.problem
        assert kept.ms == pytest.approx(row.ms, rel=1e-4)
        assert (kept.device, kept.date, kept.commit) == (row.device, row.date, row.commit)


def test_the_floor_of_a_pass_is_what_it_must_move() -> None:
    """Fails if forward+backward is divided by a read alone, which would double its ratio."""
    rows = [
        row
        for batch in run([Shape(4, 515, "float32")], device=CPU, repeats=3, only=("ours",))
        for row in batch
    ]
    by_name = {(row.direction, row.implementation): row for row in rows}
    whole = by_name["forward+backward", "ours"]
    parts = [by_name["forward+backward", name].ms for name in ("read", "copy")]
    assert whole.floor == "read+copy"
    assert whole.ratio == pytest.approx(whole.ms / sum(parts))
    backward = by_name["backward", "ours"]
    assert backward.ratio == pytest.approx(backward.ms / by_name["backward", "copy"].ms)


def test_csv_of_other_columns_is_refused(tmp_path: Path) -> None:
    """Fails if rows are appended to a file where they would land under wrong headings."""
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected the columns rows, vocab"):
        append_csv(path, [])
    assert path.read_text() == "a,b\n1,2\n"


def test_grid_is_the_product_small_first() -> None:
    """Fails if a combination is missing, or results come late because the largest runs first."""
    shapes = grid((512, 64), (151936, 50257), ("float32", "bfloat16"))
    sizes = [(shape.rows, shape.vocab) for shape in shapes[::2]]
    assert sizes == [(64, 50257), (64, 151936), (512, 50257), (512, 151936)]
    assert len(set(shapes)) == 8


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--dtype", "int8"], "expected some of float32, bfloat16, float16, float64; got 'int8'"),
        (["--only", "ours,torch"], "got 'torch'"),
        (["--rows", "64,0"], "expected positive whole numbers; got '0'"),
        (["--vocab", "many"], "got 'many'"),
        (["--device", "tpu"], "expected cpu or cuda; got 'tpu'"),
        (["--isa", "v5"], "expected some of v2, v3, v4; got 'v5'"),
    ],
)
def test_unknown_options_are_named(arguments: list[str], complaint: str) -> None:
    """Fails if a misspelt option measures something else, or ends in a traceback."""
    result = CliRunner().invoke(command_line.app, arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


def test_an_interrupt_keeps_finished_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if Ctrl-C loses rows that were measured."""

    def interrupted(*args: object, **kwargs: object) -> object:
        yield [row_of(ms=1.0)]
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "run", interrupted)
    path = tmp_path / "rows.csv"
    result = CliRunner().invoke(command_line.app, ["--csv", str(path)])
    assert result.exit_code == command_line.INTERRUPTED
    assert "Interrupted" in result.output
    assert [kept.ms for kept in read_csv(path)] == [1.0]


@pytest.mark.skipif(backend_info()["cpu_isa"] == "baseline", reason="one instruction set only")
def test_isa_sweep_measures_the_instruction_set_it_names(tmp_path: Path) -> None:
    """Fails if the sweep measures the default instruction set under another one's name."""
    path = tmp_path / "rows.csv"
    options = ["--rows", "3", "--vocab", "100", "--dtype", "float32", "--only", "ours"]
    sweep = ["--isa", "v2", "--direction", "forward", "--csv", str(path)]
    subprocess.run([sys.executable, "-m", "bench", *options, *sweep], check=True, cwd=REPOSITORY)
    assert [(kept.isa, kept.implementation) for kept in read_csv(path)] == [
        ("v2", "read"),
        ("v2", "ours"),
    ]
