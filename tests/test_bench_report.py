"""What becomes of measured rows: tables, promises judged, the roofline plot."""

from __future__ import annotations

import math

import pytest

from bench import roofline
from bench.check import Bar, bars
from bench.markdown import markdown
from bench.results import Result
from tests.bench_rows import row


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
