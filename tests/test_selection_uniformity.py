"""Clip-Cov's choice is uniform and independent: over seeds, ids and pairs of tokens.

Every statistic has a known distribution under uniform choice without replacement. All seeds are
fixed, so that a test fails always or never; the margin of five standard deviations, two-sided, a
fair hash exceeds in one of 1.7 million designs. Too even a choice fails as well.

The kernels alone are drawn from: test_selection_selectors.py has them and the reference choose what
hashing in Python chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from entropy_ext import clip_cov
from tests.selection import standard_score, token_key

MARGIN = 5.0
SEEDS = 4000
CANDIDATES = 60
OTHERS = 20
CHOSEN = 12
POSITIONS = torch.arange(CANDIDATES + OTHERS)

ID_SETS = {
    "consecutive": POSITIONS,
    "negative": -POSITIONS - 1,
    "rows of 2^32": POSITIONS << 32,
    "rank in the high bits": (POSITIONS % 8 << 60) + POSITIONS // 8,
}
SEED_SETS = {
    "consecutive": range(SEEDS),
    "multiples of 2^32": range(0, SEEDS << 32, 1 << 32),
    "negative": range(-SEEDS, 0),
}


def chosen(ids: Tensor, seeds: Iterable[int], device: torch.device) -> Tensor:
    """[seeds, candidates] float64: which candidates each seed takes. Some tokens are none."""
    total = CANDIDATES + OTHERS
    cov = torch.full((total,), 2.0, device=device)
    cov[CANDIDATES : CANDIDATES + OTHERS // 2] = 0.5
    clipped = torch.arange(total, device=device) >= CANDIDATES + OTHERS // 2
    ids = ids.to(device)
    fraction = (CHOSEN + 0.5) / total
    rows = [
        clip_cov(cov, None, fraction=fraction, clipped=clipped, seed=seed, token_ids=ids)
        for seed in seeds
    ]
    selected = torch.stack(rows).cpu()
    assert (selected.sum(1) == CHOSEN).all()
    assert not selected[:, CANDIDATES:].any()
    return selected[:, :CANDIDATES].double()


def scores(selected: Tensor) -> dict[str, float]:
    """Standard scores of [seeds, candidates] under uniform and independent choice."""
    n, m, seeds = CHOSEN, CANDIDATES, len(selected)
    expected = seeds * n / m
    # Counts of tokens within one draw are negatively correlated; the factor makes up for it.
    statistic = ((selected.sum(0) - expected) ** 2 / expected).sum().item() * (m - 1) / (m - n)
    result = {"chi-square of the counts": standard_score(statistic, m - 1)}
    for lag in (1, 2, 8):
        both = (selected[:, lag:] * selected[:, :-lag]).sum(1)
        pair = n * (n - 1) / (m * (m - 1))
        result[f"ids {lag} apart in one draw"] = _score(both, (m - lag) * pair)
    for lag in (1, 2, 16, 1024):
        shared = (selected[lag:] * selected[:-lag]).sum(1)
        result[f"the same ids, {lag} seeds apart"] = _score(shared, n * n / m)
        for shift in (lag, -lag):
            here, there = (
                (selected[:-lag], selected[lag:])
                if shift > 0
                else (
                    selected[lag:],
                    selected[:-lag],
                )
            )
            if lag < m:
                shared = (here[:, lag:] * there[:, :-lag]).sum(1)
                name = f"ids {shift} apart, {lag} seeds apart"
                result[name] = _score(shared, (m - lag) * (n / m) ** 2)
    return result


def _score(x: Tensor, mean: float) -> float:
    spread = x.std().item() / math.sqrt(len(x))
    return (x.mean().item() - mean) / spread if spread else math.inf


def suspicious(selected: Tensor) -> set[str]:
    return {name for name, score in scores(selected).items() if abs(score) > MARGIN}


@pytest.mark.parametrize(
    ("seeds", "ids"),
    [("consecutive", ids) for ids in ID_SETS]
    + [(seeds, "consecutive") for seeds in SEED_SETS if seeds != "consecutive"],
)
def test_uniform_and_independent(seeds: str, ids: str, device: torch.device) -> None:
    """Chi-square of the counts; pairs of ids within a draw; draws of one seed and another.

    Catches a modulo of too few bits, neighbours chosen together, and a hash of seed + id, by which
    one seed's choice is the next one's, shifted.
    """
    assert suspicious(chosen(ID_SETS[ids], SEED_SETS[seeds], device)) == set()


def test_every_set_equally_often(device: torch.device) -> None:
    """Of 6 tokens 3: each of the 20 sets, and not each token alone."""
    cov = torch.full((6,), 2.0, device=device)
    weights = 2 ** torch.arange(6, device=device)
    drawn = [(clip_cov(cov, None, fraction=0.5, seed=s) * weights).sum() for s in range(SEEDS)]
    counts = torch.bincount(torch.stack(drawn).cpu(), minlength=64).double()
    counts = counts[counts > 0]
    assert len(counts) == 20
    expected = SEEDS / 20
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(standard_score(statistic, 19)) < MARGIN


def by_key(key: Callable[[int, int], float]) -> Tensor:
    """What chosen() would be if tokens were ordered by key(seed, id)."""
    selected = torch.zeros(SEEDS, CANDIDATES, dtype=torch.float64)
    for seed in range(SEEDS):
        order = sorted(range(CANDIDATES), key=lambda i: key(seed, i))
        selected[seed, order[:CHOSEN]] = 1.0
    return selected


@pytest.mark.parametrize(
    ("fault", "key", "noticed"),
    [
        ("of seed + id", lambda s, i: token_key(0, s + i), "ids 1 apart, 1 seeds apart"),
        ("of id − seed", lambda s, i: token_key(0, i - s), "ids -1 apart, 1 seeds apart"),
        ("of the seed alone", lambda s, i: token_key(s, 0) + i, "chi-square of the counts"),
        ("of the id alone", lambda s, i: token_key(0, i), "the same ids, 1 seeds apart"),
        ("of pairs of seeds", lambda s, i: token_key(s // 2, i), "the same ids, 1 seeds apart"),
        ("of pairs of ids", lambda s, i: token_key(s, i // 2), "ids 1 apart in one draw"),
        ("of few bits", lambda s, i: token_key(s, i) % 16, "chi-square of the counts"),
        ("not at all", lambda s, i: (i + s) % CANDIDATES, "ids 1 apart in one draw"),
    ],
)
def test_planted_faults_are_noticed(
    fault: str, key: Callable[[int, int], float], noticed: str
) -> None:
    """Hashes with a known flaw, each seen by the statistic meant for it."""
    assert noticed in suspicious(by_key(key)), fault


def test_too_even_a_choice_is_noticed() -> None:
    """Tokens dealt out in turn: every count the same."""
    dealt = torch.zeros(SEEDS, CANDIDATES, dtype=torch.float64)
    for seed in range(SEEDS):
        dealt[seed, [(seed * CHOSEN + i) % CANDIDATES for i in range(CHOSEN)]] = 1.0
    assert scores(dealt)["chi-square of the counts"] < -MARGIN


def test_python_keys_pass() -> None:
    """What the kernels are held against is itself uniform."""
    assert suspicious(by_key(token_key)) == set()
