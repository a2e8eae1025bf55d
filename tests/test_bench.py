"""The benchmark: it compares like with like, counts bytes right, and keeps what it measured."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from bench import __main__ as command_line
from bench import roofline
from bench.baselines import log_softmax_statistics, trl_statistics, verl_statistics
from bench.candidates import IMPLEMENTATIONS, Shape
from bench.check import Bar, bars
from bench.grid import fits, grid, run
from bench.markdown import markdown
from bench.memory import peak_extra_bytes
from bench.results import Result, append_csv, read_csv, useful_bytes
from bench.timing import Call, cpu_stopwatch, round_robin
from entropy_ext import backend_info, reference

REPOSITORY = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
Statistics = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def truth(logits: Tensor, tokens: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """logp, entropy and the gradient of Σ upstream·(logp + entropy), in float64."""
    leaf = logits.double().requires_grad_()
    stats = reference.token_stats(leaf, tokens)
    ((stats.logp + stats.entropy) * upstream).sum().backward()
    assert leaf.grad is not None
    return stats.logp.detach(), stats.entropy.detach(), leaf.grad


# Errors of the baselines in ulps: eps of the output's dtype times its largest value. TRL's and
# verl's formulas in half precision carry the roundings of both factors of p·ln p besides their own;
# verl's entropy is the difference of two numbers several times its size, in every dtype.
@pytest.mark.parametrize(
    ("statistics", "dtype", "logp_ulps", "entropy_ulps", "gradient_ulps"),
    [
        (log_softmax_statistics, torch.float32, 1, 3, 5),
        (trl_statistics, torch.float32, 1, 3, 5),
        (verl_statistics, torch.float32, 1, 16, 30),
        (log_softmax_statistics, torch.bfloat16, 1, 3, 0.51),
        (trl_statistics, torch.bfloat16, 0.51, 2, 1.5),
        (verl_statistics, torch.bfloat16, 0.51, 3, 2.5),
    ],
)
def test_baselines_compute_what_we_compute(
    statistics: Statistics,
    dtype: torch.dtype,
    logp_ulps: float,
    entropy_ulps: float,
    gradient_ulps: float,
) -> None:
    """Fails if a baseline computes another quantity, so that its time would say nothing.

    300 rows span three sequences and entropy chunks, the last one short.
    """
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(300, 1003, generator=generator)).to(dtype)
    tokens = torch.randint(1003, (300,), generator=generator)
    upstream = torch.rand(300, generator=generator, dtype=torch.float64)
    logp, entropy, gradient = truth(logits, tokens, upstream)

    leaf = logits.clone().requires_grad_()
    got_logp, got_entropy = statistics(leaf, tokens)
    ((got_logp.double() + got_entropy.double()) * upstream).sum().backward()

    for got, expected, ulps in (
        (got_logp, logp, logp_ulps),
        (got_entropy, entropy, entropy_ulps),
        (leaf.grad, gradient, gradient_ulps),
    ):
        ulp = torch.finfo(got.dtype).eps * expected.abs().max()
        assert (got.detach().double() - expected).abs().max() <= ulps * ulp


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_baseline_computes_what_we_compute() -> None:
    """Fails if torch.compile is timed on something else than the eager baseline."""
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(6, 1003, generator=generator)
    tokens = torch.randint(1003, (6,), generator=generator)
    logp, entropy, gradient = truth(logits, tokens, torch.ones(6, dtype=torch.float64))
    leaf = logits.clone().requires_grad_()
    got_logp, got_entropy = IMPLEMENTATIONS["compile"]()(leaf, tokens)
    (got_logp + got_entropy).sum().backward()
    torch.testing.assert_close(got_logp.double(), logp, rtol=1e-6, atol=0)
    torch.testing.assert_close(got_entropy.double(), entropy, rtol=1e-6, atol=0)
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=0, atol=1e-6)


def test_useful_bytes_of_the_reference_point() -> None:
    """Fails if a pass is charged another number of transfers."""
    logits = 311_164_928  # 512 × 151936 × 4 bytes
    counted = [useful_bytes(d, 512, 151936, 4) for d in ("forward", "backward", "forward+backward")]
    assert counted == [logits, 2 * logits, 3 * logits]


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    """Fails if pages freed again, the second 64 MB, or those of an earlier call are missed."""
    megabytes = 64

    def two_buffers() -> Tensor:
        first = torch.ones(megabytes << 18)
        return first + 1

    keep_out = torch.ones(4 * megabytes << 18)
    del keep_out
    peak = peak_extra_bytes(two_buffers, CPU)
    assert peak is not None
    assert peak / 2**20 == pytest.approx(2 * megabytes, abs=4)
    assert peak_extra_bytes(lambda: None, CPU) < 2**20


def test_round_robin_interleaves_and_rotates() -> None:
    """Fails if candidates run in blocks, where a noisy second would hit one of them only."""
    order: list[tuple[str, int]] = []
    calls = {
        name: Call(lambda turn, name=name: order.append((name, turn))) for name in ("a", "b", "c")
    }
    samples = round_robin(calls, repeats=3, stopwatch=cpu_stopwatch)
    warm, timed = order[:6], order[6:]
    assert sorted(warm) == [(name, turn) for name in "abc" for turn in (0, 1)]
    assert timed == [
        (name, turn) for turn, names in enumerate(("abc", "bca", "cab")) for name in names
    ]
    assert {name: len(sample.ms) for name, sample in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_settled_call_runs_once_untimed_before_each_timed_run() -> None:
    """Fails if the untimed step uses the timed one's buffers, or hides the first, slow call."""
    turns: list[int] = []
    samples = round_robin(
        {"a": Call(turns.append, settle=True)}, repeats=3, stopwatch=cpu_stopwatch
    )
    assert turns == [0, 1, 1, 0, 2, 1, 3, 2]
    assert len(samples["a"].ms) == 3


def test_round_robin_gives_up_on_what_does_not_fit() -> None:
    """Fails if one baseline's lack of memory ends the run of the others."""

    def too_large(turn: int) -> None:
        raise torch.OutOfMemoryError

    samples = round_robin(
        {"large": Call(too_large), "small": Call(lambda turn: None)},
        repeats=2,
        stopwatch=cpu_stopwatch,
    )
    assert samples["large"].error == "out of memory"
    assert math.isnan(samples["large"].quantile(0.5))
    assert len(samples["small"].ms) == 2


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
        yield [row(ms=1.0)]
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


def row(**changes: object) -> Result:
    """A row as the reference point gives it, with the given fields changed."""
    plain = Result(
        rows=512, vocab=151936, dtype="float32", direction="forward", implementation="ours",
        bytes=311_164_928, ms=10.0, ms_p20=9.0, ms_p80=11.0, gb_s=31.1, floor="read", ratio=1.2,
        extra_mb=0.1, first_s=0.1, repeats=7, note="", date="", commit="", device="", threads=2,
        isa="v4", torch="", compiler="", cuda="",
    )  # fmt: skip
    return replace(plain, **changes)


def test_markdown_keeps_the_last_of_repeated_rows() -> None:
    """Fails if a page shows a superseded number, or sorts the fastest below slower ones."""
    floor = row(implementation="read", ms=8.0, ratio=1.0)
    text = markdown([row(ms=99.0), row(implementation="eager", ms=80.0), floor, row(ms=10.0)])
    table = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")]
    assert table == [
        ["| implementation", "ms"],
        ["| read", "8.000"],
        ["| ours", "10.00"],
        ["| eager", "80.00"],
    ]


def reference_rows(**ours_forward: object) -> list[Result]:
    """What the check measures, with every promise kept unless our forward is changed."""
    rows = []
    for dtype in ("float32", "bfloat16"):
        rows += [
            row(dtype=dtype, **ours_forward),
            row(dtype=dtype, implementation="ours+extras", ms=12.0),
            row(dtype=dtype, implementation="ours+support", ms=10.4),
            row(dtype=dtype, direction="backward", floor="copy", ratio=1.1),
            row(dtype=dtype, direction="backward", implementation="ours+support", ms=10.5),
            row(dtype=dtype, direction="forward+backward", ms=40.0),
            row(dtype=dtype, direction="forward+backward", implementation="compile", ms=240.0),
            row(dtype=dtype, direction="forward+backward", implementation="eager", ms=800.0),
        ]
    return rows


def isa_rows(v3_ratio: float) -> dict[str, list[Result]]:
    """Our kernels under two instruction sets."""
    return {
        isa: [
            row(isa=isa, dtype=dtype, direction=direction, ratio=ratio)
            for dtype in ("float32", "bfloat16")
            for direction in ("forward", "backward")
        ]
        for isa, ratio in (("v3", v3_ratio), ("v4", 1.0))
    }


def test_all_promises_hold_on_good_rows() -> None:
    """Fails if a promise is missing or reads the wrong row; the numbers are worked by hand."""
    promises = {bar.promise: bar for bar in bars(reference_rows(), isa_rows(1.9))}
    assert all(bar.holds for bar in promises.values())
    assert len(promises) == 18
    assert promises["forward float32"].measured == 1.2
    assert promises["backward bfloat16"].measured == 1.1
    faster = promises["forward+backward float32, faster than torch.compile"]
    assert faster.measured == 6.0
    assert faster.note == "eager: 20.0 ×"
    assert promises["all extras bfloat16"].measured == pytest.approx(1.2)
    assert promises["support, forward float32"].measured == pytest.approx(1.04)
    assert promises["support, backward float32"].measured == pytest.approx(1.05)
    assert promises["extra memory of the forward float32"].limit == pytest.approx(1.032768)
    assert promises["backward float32, v3"].measured == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("change", "v3_ratio", "broken"),
    [
        ({"ratio": 1.31}, 1.5, {"forward float32"}),
        ({"ratio": 2.81}, 1.5, {"forward float32", "forward bfloat16"}),
        ({"ms": 9.5}, 1.5, {"all extras float32", "all extras bfloat16"}),
        (
            {"ms": 9.4},
            1.5,
            {
                f"{x} {t}"
                for x in ("all extras", "support, forward")
                for t in ("float32", "bfloat16")
            },
        ),
        (
            {"extra_mb": 2.0},
            1.5,
            {"extra memory of the forward float32", "extra memory of the forward bfloat16"},
        ),
        (
            {},
            2.1,
            {f"{d} {t}, v3" for d in ("forward", "backward") for t in ("float32", "bfloat16")},
        ),
    ],
)
def test_broken_promises_are_found(
    change: dict[str, float], v3_ratio: float, broken: set[str]
) -> None:
    """Fails if the check passes what is too slow or too large."""
    promises = bars(reference_rows(**change), isa_rows(v3_ratio))
    assert {bar.promise for bar in promises if not bar.holds} == broken


def test_a_promise_that_was_not_measured_does_not_hold() -> None:
    """Fails if a NaN, such as the memory where there is no counter, passes for success."""
    assert not Bar("", math.nan, 1.0, "").holds
    assert not Bar("", math.nan, 1.0, "", at_least=True).holds
    assert Bar("", 5.0, 5.0, "", at_least=True).holds
    assert not Bar("", 4.9, 5.0, "", at_least=True).holds


def test_shape_fits_with_logits_touched_memory_and_gradient() -> None:
    """Fails if a problem is started whose gradient cannot be allocated any more."""
    shape = Shape(4, 10, "bfloat16")
    assert fits(shape, 3 * 80)
    assert not fits(shape, 3 * 80 - 1)


def test_roofline_shows_the_newest_share_of_the_floor() -> None:
    """Fails if a re-measured problem appears twice, or a share is drawn upside down."""
    old = row(date="2026-01-01T00:00:00Z", ratio=4.0)
    new = row(date="2026-01-02T00:00:00Z", ratio=1.25)
    (axis,) = roofline.plot([new, old, row(implementation="eager", ratio=9.0)]).axes
    drawn = [line for line in axis.lines if line.get_label() == "V = 151936, float32"]
    assert [line.get_xydata().tolist() for line in drawn] == [[[311.164928, 0.8]]]


def test_roofline_of_peers_alone_is_refused() -> None:
    """Fails if a file without our rows gives an empty picture."""
    with pytest.raises(ValueError, match="implementation 'ours'"):
        roofline.plot([row(implementation="eager")])
