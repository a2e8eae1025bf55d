"""The selection benchmark: it compares like with like, counts right, and keeps what it measured."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench import selection_baselines as eager
from bench.check import selection_bars
from bench.markdown import selection_markdown
from bench.selection_bench import SelectionResult, measure, read_rows, run
from bench.selection_candidates import SELECTORS, make_tokens

CPU = torch.device("cpu")
SEED = torch.ones((), dtype=torch.int64)
COUNT = 20011


@pytest.mark.parametrize("name", [name for name in SELECTORS if "clip_cov" not in name])
def test_eager_formulas_compute_what_ours_do(name: str) -> None:
    """Fails if a baseline computes something else, so that its time would say nothing."""
    x = make_tokens(COUNT, CPU)
    ours, theirs = SELECTORS[name].ours(x, SEED), SELECTORS[name].eager(x)
    if "policy_stats" in name:
        # Clip-Cov's choice is random: the covariance and the weights are what can be compared.
        assert isinstance(ours, tuple)
        assert isinstance(theirs, tuple)
        pairs = [(ours[-3], theirs[0]), (ours[-1], theirs[2])]
    else:
        pairs = [(ours, theirs)]
    for got, expected in pairs:
        assert isinstance(got, torch.Tensor)
        assert isinstance(expected, torch.Tensor)
        # The eager covariance and change have no use for a mask; ours are 0 off it.
        expected = torch.where(x.mask, expected, torch.zeros_like(expected))
        got = torch.where(x.mask, got, torch.zeros_like(got))
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def test_eager_clip_cov_chooses_as_many_among_the_same() -> None:
    """Fails if the baseline has another idea of who is a candidate or of how many are chosen."""
    x = make_tokens(COUNT, CPU)
    candidates = x.mask & ~x.clipped & (x.cov > 1.0) & (x.cov < 5.0)
    for selected in (SELECTORS["clip_cov"].ours(x, SEED), eager.clip_cov(x)):
        assert isinstance(selected, torch.Tensor)
        assert int(selected.sum()) == int(2e-4 * int(x.mask.sum()))
        assert not (selected & ~candidates).any()


def test_costs_count_operators_and_waits() -> None:
    """Fails if views or allocations count as launches, or a wait of the host goes unseen."""
    x = torch.arange(12.0)
    assert eager.cost_of(lambda: x.view(3, 4).t()) == eager.Cost(0, 0)
    assert eager.cost_of(lambda: torch.empty(3)) == eager.Cost(0, 0)
    assert eager.cost_of(lambda: (x + 1) * 2) == eager.Cost(2, 0)
    assert eager.cost_of(lambda: x.sum().item()) == eager.Cost(2, 1)
    assert eager.cost_of(lambda: torch.nonzero(x)).host_syncs == 1
    assert eager.cost_of(lambda: x[x > 3]).host_syncs == 1
    assert eager.cost_of(lambda: x[torch.tensor([1])]).host_syncs == 0
    assert eager.cost_of(lambda: eager.to_host(x)).host_syncs == 1


def test_measured_rows_and_their_file(tmp_path: Path) -> None:
    """Fails if a selector is left out, a ratio is of other times, or a row is lost."""
    path = tmp_path / "selection.csv"
    results = run(Console(quiet=True), path, [512], device=CPU, repeats=3)
    assert [row.selector for row in results[::2]] == list(SELECTORS)
    for ours, theirs in zip(results[::2], results[1::2], strict=True):
        assert (ours.implementation, theirs.implementation) == ("ours", "eager")
        assert ours.speedup == pytest.approx(theirs.ms / ours.ms)
        assert theirs.speedup == 1.0
        assert ours.host_syncs == 0
        assert ours.launches >= 1
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["selector"], row["implementation"]) for row in rows] == [
        (row.selector, row.implementation) for row in results
    ]


def test_tables_from_the_file(tmp_path: Path) -> None:
    """Fails if the page's table mixes rows up, or a file read again is not what was written."""
    path = tmp_path / "selection.csv"
    run(Console(quiet=True), path, [512], device=CPU, repeats=3)
    results = run(Console(quiet=True), path, [512], device=CPU, repeats=3)
    rows = read_rows(path)
    assert [row.selector for row in rows] == [row.selector for row in results] * 2
    assert rows[-1].ms == pytest.approx(results[-1].ms, rel=1e-4)
    table = selection_markdown(rows)
    ours, theirs = results[2:4]
    assert f"| clip_cov | {ours.ms:.3f} | {theirs.ms:.3f} | {ours.speedup:.1f} | 8 / " in table
    assert table.count("| clip_cov |") == 1


def test_launches_of_a_selection() -> None:
    """A fill, a pass for each digit of eleven bits, the mark: fails if a pass is forgotten.

    64-bit hashes have six digits, float32 three, and the positions of 512 tokens one.
    """
    launches = {name: selector.launches(512) for name, selector in SELECTORS.items()}
    assert launches["clip_cov"] == 1 + 6 + 1
    assert launches["kl_cov"] == launches["top_entropy"] == 1 + 3 + 1 + 1
    assert launches["top_entropy, quantile"] == 1 + 3 + 1
    assert launches["policy_stats after the logits"] == 3 + 1 + 8 + 3


def test_promises_of_the_selectors() -> None:
    """Fails if a slow selector passes, a fast one does not, or one is not judged."""
    (batch, *_) = measure([512], device=CPU, repeats=3)
    names = ("clip_cov", "kl_cov", "top_entropy", "top_entropy, quantile", "steer_weights")

    def bars_at(speedup: float) -> list[bool]:
        rows: list[SelectionResult] = [
            replace(row, selector=name, speedup=speedup if row.implementation == "ours" else 1.0)
            for name in names
            for row in batch
        ]
        return [bar.holds for bar in selection_bars(rows)]

    assert bars_at(3.0) == [True] * 4
    assert bars_at(2.9) == [False] * 4
