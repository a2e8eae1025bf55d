"""The experiment on the first-order change of entropy: figures, order of the error, command."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sim.theorem1.command as command
from entropy_ext import TokenStats, token_stats
from sim.__main__ import app
from sim.theorem1 import token_check
from sim.theorem1.bandit import bandit_steps
from sim.theorem1.claims import ORDER, ORDER_TOLERANCE, POOLED_BOUND, POOLED_ETA
from sim.theorem1.sweep import concatenate, fit_order, measure
from sim.theorem1.tables import chunks

ETAS = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


def _sweeps(states, actions, etas=ETAS, **options):
    parts = [list(measure(c, etas)) for c in chunks(states, actions, seed=3, **options)]
    return [concatenate(kind) for kind in zip(*parts, strict=True)]


def _run(*arguments):
    return CliRunner().invoke(app, ["theorem1", *map(str, arguments)], terminal_width=200)


def test_bandit_has_the_hand_figures():
    """Catches a wrong covariance weight, an uncentred advantage and a step that is not exact."""
    steps = {(step.case, step.gradient): step for step in bandit_steps()}
    likeliest, rarest = "likeliest arm pays", "rarest arm pays"
    hand = {
        (likeliest, "pg"): (-9.85548e-4, -9.86072e-4),
        (likeliest, "npg"): (-3.116005e-3, -3.120232e-3),
        (rarest, "pg"): (3.20885e-4, None),
        (rarest, "npg"): (1.500767e-3, None),
    }
    assert steps.keys() == hand.keys()
    for key, (predicted, measured) in hand.items():
        assert steps[key].predicted == pytest.approx(predicted, rel=0.0, abs=6e-10), key
        if measured is not None:
            assert steps[key].measured == pytest.approx(measured, rel=0.0, abs=6e-10), key
    assert steps[likeliest, "pg"].advantages == pytest.approx((0.3, -0.7, -0.7))
    assert steps[rarest, "pg"].advantages == pytest.approx((-0.1, -0.1, 0.9))


@pytest.mark.parametrize(("states", "actions"), [(100, 5), (100, 1000), (8, 151936)])
def test_error_is_of_second_order_with_the_predicted_coefficient(states, actions):
    """Catches a wrong first-order term (order 1), rounding (order 0), a wrong second derivative."""
    for sweep in _sweeps(states, actions):
        fit = fit_order(sweep.etas, sweep.error)
        assert abs(fit.order - ORDER) <= ORDER_TOLERANCE, sweep.gradient
        second_order = 0.5 * sweep.etas**2 * np.abs(sweep.curvature).sum()
        # The third-order term is all that is left; it vanishes with η.
        ratio = np.abs(sweep.error).sum(0) / second_order
        np.testing.assert_allclose(ratio[:6], 1.0, atol=2e-3)
        np.testing.assert_allclose(ratio[1:4], 1.0, atol=2e-5)


@pytest.mark.parametrize("alignment", [0.0, 1.0])
def test_pooled_error_of_a_hundred_policies(alignment):
    """Catches a prediction that is off by more than second order at the usual step."""
    for sweep in _sweeps(100, 2000, [POOLED_ETA], alignment=alignment):
        assert len(sweep.entropy) == 100
        assert sweep.pooled_error[0] < POOLED_BOUND, sweep.gradient


def test_a_prediction_one_per_cent_off_is_not_of_second_order():
    """Catches a fit that gives order 2 whatever it is fed."""
    (chunk,) = chunks(50, 5, seed=0)
    for sweep in measure(chunk, ETAS):
        wrong = sweep._replace(slope=1.01 * sweep.slope)
        assert fit_order(sweep.etas, sweep.error).order == pytest.approx(2.0, abs=0.01)
        assert fit_order(wrong.etas, wrong.error).order < 1.5


def test_tables_hold_flat_and_peaked_policies():
    """Catches random policies that are all near uniform, where a wrong gradient can hide."""
    (chunk,) = chunks(200, 1000, seed=0)
    share = chunk.policy.entropy / np.log(1000)
    assert (share > 0.9).sum() > 20
    assert (share < 0.3).sum() > 20
    assert chunk.returns.min() >= 0.0
    assert chunk.returns.max() <= 1.0
    (sweep, _) = measure(chunk, [1e-3])
    rising = (sweep.measured > 0).mean()
    assert 0.2 < rising < 0.8


@pytest.mark.parametrize("chunk_elements", [1, 3 * 4099, 10**6])
def test_chunks_change_no_bit(chunk_elements):
    """Catches random streams or sums that depend on where a chunk begins."""
    whole = _sweeps(10, 4099, ETAS[:3])
    parts = _sweeps(10, 4099, ETAS[:3], chunk_elements=chunk_elements)
    for one, other in zip(whole, parts, strict=True):
        for a, b in zip(one[2:], other[2:], strict=True):
            np.testing.assert_array_equal(a, b)


def test_chunks_are_bounded():
    """Catches a table that is held in memory whole."""
    sizes = [c.logits.size for c in chunks(10, 1000, seed=0, chunk_elements=3500)]
    assert sizes == [3000, 3000, 3000, 1000]


def test_fit_by_hand():
    """Catches a fit on plain axes, of the wrong axis, or of signed errors."""
    etas = np.array([1e-3, 1e-2, 1e-1])
    fit = fit_order(etas, np.stack([3.0 * etas**1.7, -5.0 * etas**1.7]))
    assert fit.order == pytest.approx(1.7, rel=1e-12)
    assert fit.constant == pytest.approx(4.0, rel=1e-12)
    assert fit.standard_error < 1e-10
    # ln y = 0, 0, 3 ln 10 over x = −3, −2, −1 (ln 10): slope 1.5, residuals ½, −1, ½.
    uneven = fit_order(etas, np.array([[1.0, 1.0, 1000.0]]))
    assert uneven.order == pytest.approx(1.5)
    assert uneven.standard_error == pytest.approx(np.sqrt(1.5 / 2))


def test_fit_of_too_few_or_no_errors():
    """Catches a line through two points, and −inf from an error of zero."""
    with pytest.raises(ValueError, match="expected at least 3 step sizes to fit an order, got 2"):
        fit_order(np.array([0.1, 1.0]), np.ones((1, 2)))
    assert np.isnan(fit_order(np.array([0.1, 1.0, 2.0]), np.array([[0.0, 1.0, 2.0]])).order)


@pytest.mark.parametrize("spoiled", ["logp", "entropy", "lse"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("by", [1.0001, np.nan])
def test_token_check_notices_a_wrong_statistic(monkeypatch, spoiled, dtype, by):
    """Catches a check that compares token_stats with itself, or lets NaN pass."""

    def wrong(logits, tokens):
        stats = token_stats(logits, tokens)
        if logits.dtype != getattr(torch, dtype):
            return stats
        return stats._replace(**{spoiled: getattr(stats, spoiled) * by})

    for statistics, bad in ((token_stats, set()), (wrong, {(dtype, spoiled)})):
        monkeypatch.setattr(token_check, "token_stats", statistics)
        check = token_check.TokenCheck()
        for chunk in chunks(6, 3001, seed=0, chunk_elements=6002):
            check.update(chunk)
        found = check.deviations()
        assert {(d.dtype, d.quantity) for d in found if not d.error <= d.bound} == bad
        assert len(found) == 6


def test_command_writes_what_it_measured(tmp_path):
    """Catches a CSV that disagrees with theory or lacks rows, and plots that are not written."""
    result = _run("--states", 12, "--actions", "5,300", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    with (tmp_path / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 12 * len(ETAS)
    assert len(
        {tuple(row[k] for k in ("gradient", "actions", "state", "eta")) for row in rows}
    ) == (len(rows))
    for row in rows:
        error = float(row["measured"]) - float(row["predicted"])
        assert float(row["error"]) == error
        if row["eta"] == "0.0001":
            size = abs(float(row["measured"]))
            assert abs(error - float(row["second_order"])) < 1e-6 * size
    for name in ("predicted_measured.png", "error_order.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    for figure in ("-9.855482e-04", "-9.860716e-04", "-3.120232e-03", "+1.500767e-03"):
        assert figure in result.output
    assert "no" not in [
        line.split("│")[-2].strip() for line in result.output.splitlines() if "│" in line
    ]


def test_command_fails_when_a_claim_does(tmp_path, monkeypatch):
    """Catches a command that prints “no” and still reports success."""

    def wrong(logits, tokens):
        return TokenStats(*(value + 1.0 for value in token_stats(logits, tokens)[:3]))

    monkeypatch.setattr(token_check, "token_stats", wrong)
    result = _run("--states", 3, "--actions", 5, "--out", tmp_path)
    assert result.exit_code == 1
    assert "│ no" in result.output


def test_interrupt_keeps_what_was_finished(tmp_path, monkeypatch):
    """Catches results that are only written, or only shown, at the very end."""

    def interrupted(chunk, etas):
        if chunk.first_state == 2:
            raise KeyboardInterrupt
        return measure(chunk, etas)

    def single_states(states, actions, **options):
        return chunks(states, actions, chunk_elements=actions, **options)

    monkeypatch.setattr(command, "measure", interrupted)
    monkeypatch.setattr(command, "chunks", single_states)
    result = _run("--states", 9, "--actions", "5,7", "--etas", "1e-4,1e-3,1e-2", "--out", tmp_path)
    assert result.exit_code == 130, result.output
    assert "Interrupted" in result.output
    assert "2 × 5" in result.output
    with (tmp_path / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["gradient"], row["state"]) for row in rows[::3]] == [
        ("pg", "0"),
        ("npg", "0"),
        ("pg", "1"),
        ("npg", "1"),
    ]
    assert (tmp_path / "error_order.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--actions", "1"], "expected whole numbers from 2 to 1048576, comma-separated; got '1'"),
        (["--actions", "5,x"], "got 'x'"),
        (["--etas", "1e-3,0,1e-2"], "expected numbers from 1e-09 to 1, comma-separated; got '0'"),
        (["--etas", "1e-3,nan,1e-2"], "got 'nan'"),
        (
            ["--etas", "1e-3,1e-2"],
            "expected at least 3 different step sizes to fit an order; got 2",
        ),
        (["--states", "0"], "--states"),
        (["--seed", "-1"], "--seed"),
        (["--alignment", "1.5"], "--alignment"),
        (["--out", __file__], "--out"),
        (["--out", f"{__file__}/folder"], "--out"),
    ],
)
def test_bad_options_are_named(arguments, message, tmp_path, monkeypatch):
    """Catches options that end in a traceback, or in a run of something else."""
    monkeypatch.chdir(tmp_path)
    result = _run(*arguments)
    assert result.exit_code == 2, result.output
    flat = " ".join(result.output.replace("│", " ").split())
    assert message in flat
    assert not list(tmp_path.iterdir())
