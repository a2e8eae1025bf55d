"""The CUDA moments and covariance, executed on the CPU: sums against exact ones.

math.fsum rounds an exact sum once, and products of two float32 are exact in float64, so that a sum
of float32 has one right answer, to the last bit. For float64 the truth is in fractions.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from entropy_ext import covariance
from tests import draws
from tests.simt import toolchain
from tests.simt.emulator import run_cases
from tests.simt.selection_emulator import MOMENT_SUMS, covariance_case, merge_case, moments_case
from tests.simt.token_inputs import COUNTS, DTYPES, more_than_a_grid
from tests.truth import assert_within_rule, same_bits

SUMS = ("logp", "advantage", "logp_square", "advantage_square", "product")


@pytest.fixture(scope="module")
def driver() -> Path:
    return toolchain.build_selection_driver(toolchain.PLAIN)


def draw_tokens(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """logp, advantages and mask; sums that cancel, NaN in the padding."""
    random = draws.generator("moments", count, dtype)
    logp = -torch.rand(count, generator=random, dtype=torch.float64).square() * 12
    advantages = torch.randn(count, generator=random, dtype=torch.float64)
    mask = torch.rand(count, generator=random) < 0.7
    return (
        logp.masked_fill(~mask, math.nan).to(dtype),
        advantages.masked_fill(~mask, math.nan).to(dtype),
        mask,
    )


def terms(logp: Tensor, advantages: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors, in float64, of what each sum is over."""
    logp, advantages = logp.double(), advantages.double()
    one = torch.ones_like(logp)
    return {
        "logp": (logp, one),
        "advantage": (advantages, one),
        "logp_square": (logp, logp),
        "advantage_square": (advantages, advantages),
        "product": (logp, advantages),
    }


def pairs(sums: Tensor) -> dict[str, tuple[float, float]]:
    rest = sums[2:].tolist()
    return dict(zip(SUMS, zip(rest[::2], rest[1::2], strict=True), strict=True))


def check_sums(sums: Tensor, logp: Tensor, advantages: Tensor, mask: Tensor | None) -> None:
    valid = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask
    counted = valid & logp.isfinite() & advantages.isfinite()
    assert sums[0] == counted.sum()
    assert sums[1] == (valid & ~counted).sum()
    found = pairs(sums)
    for name, (x, y) in terms(logp[counted], advantages[counted]).items():
        high, low = found[name]
        if logp.dtype == torch.float32:
            assert high + low == math.fsum((x * y).tolist()), name
            continue
        products = [Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        error = abs(Fraction(high) + Fraction(low) - sum(products))
        # Beside the products only the low parts are rounded.
        assert error <= Fraction(len(products), 2**100) * sum(map(abs, products)), name


def check_moments(driver: Path, dtype: torch.dtype, counts: tuple[int, ...] = COUNTS) -> None:
    drawn = [draw_tokens(count, dtype) for count in counts]
    drawn += [(x.nan_to_num(0.5), a.nan_to_num(0.25), None) for x, a, _ in drawn]
    found = run_cases(driver, [moments_case(*one, seed=i) for i, one in enumerate(drawn)])
    for one, ours in zip(drawn, found, strict=True):
        check_sums(ours["sums"], *one)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums(driver: Path, dtype: torch.dtype) -> None:
    """Catches a token lost or counted twice, and a sum of doubles where a pair is promised."""
    check_moments(driver, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tokens_that_are_not_finite_are_skipped(driver: Path, dtype: torch.dtype) -> None:
    """Catches one NaN or −∞ in a valid token that takes all sums with it."""
    logp = torch.tensor([-1.0, -math.inf, math.nan, -2.0, -3.0, -0.5], dtype=dtype)
    advantages = torch.tensor([1.0, 1.0, 1.0, math.inf, math.nan, -2.0], dtype=dtype)
    (ours,) = run_cases(driver, [moments_case(logp, advantages, None)])
    assert ours["sums"].tolist() == [2, 4, -1.5, 0, -1, 0, 1.25, 0, 5, 0, 0, 0]


def test_no_token(driver: Path) -> None:
    """Empty, or wholly masked: zeros, which add up with the sums of others."""
    nothing = torch.full((4097,), math.nan)
    masked = torch.zeros(4097, dtype=torch.bool)
    cases = [moments_case(nothing[:0], nothing[:0], None), moments_case(nothing, nothing, masked)]
    for ours in run_cases(driver, [*cases, merge_case(torch.empty(0, MOMENT_SUMS))]):
        assert not ours["sums"].any()


def test_the_order_of_threads_changes_no_bit(driver: Path) -> None:
    """Catches a sum whose order is a race, which the exact sum of a pair would hide."""
    for dtype in DTYPES:
        tokens = draw_tokens(10000, dtype)
        found = run_cases(driver, [moments_case(*tokens, seed=seed) for seed in range(8)])
        for ours in found[1:]:
            assert same_bits(ours["sums"], found[0]["sums"])


def test_order_and_split_of_the_tokens_change_no_mean(driver: Path) -> None:
    """float32: shuffled, or in parts that are merged, the means have the same bits."""
    logp, advantages, mask = draw_tokens(10000, torch.float32)
    order = torch.randperm(10000, generator=draws.generator("order"))
    ends = [0, 1, 32, 5000, 5000, 10000]
    whole, shuffled, *parts = run_cases(
        driver,
        [
            moments_case(logp, advantages, mask),
            moments_case(logp[order], advantages[order], mask[order]),
            *(
                moments_case(logp[a:b], advantages[a:b], mask[a:b])
                for a, b in itertools.pairwise(ends)
            ),
        ],
    )
    (merged,) = run_cases(driver, [merge_case(torch.stack([part["sums"] for part in parts]))])
    for other in (shuffled, merged):
        check_sums(other["sums"], logp, advantages, mask)
        both = zip(pairs(other["sums"]).values(), pairs(whole["sums"]).values(), strict=True)
        assert all(sum(a) == sum(b) for a, b in both)


@pytest.mark.parametrize("count", [1, 2, 255, 257, 700])
def test_merge(driver: Path, count: int) -> None:
    """As many parts as calls or ranks: catches one lost, or its low part."""
    random = draws.generator("parts", count)
    high = torch.randn(count, MOMENT_SUMS, generator=random, dtype=torch.float64)
    parts = high.clone()
    parts[:, :2] = torch.arange(count)[:, None]
    parts[:, 3::2] = high[:, 3::2] * 2.0**-54
    (ours,) = run_cases(driver, [merge_case(parts)])
    assert ours["sums"][:2].tolist() == [count * (count - 1) / 2] * 2
    for i, (high, low) in enumerate(pairs(ours["sums"]).values()):
        exact = sum(map(Fraction, parts[:, 2 + 2 * i : 4 + 2 * i].flatten().tolist()))
        assert abs(Fraction(high) + Fraction(low) - exact) <= Fraction(count, 2**98)


def test_more_tiles_than_blocks(driver: Path) -> None:
    """Catches a tile left out once a block takes several."""
    count = more_than_a_grid("token_selection_moments.cu", "kMaxBlocks", "kSummed")
    logp = -torch.rand(count, generator=draws.generator("many"))
    advantages = torch.randn(count, generator=draws.generator("many too"))
    (ours,) = run_cases(driver, [moments_case(logp, advantages, None)])
    check_sums(ours["sums"], logp, advantages, None)


def check_covariance(driver: Path, dtype: torch.dtype) -> None:
    for seed, count in enumerate(COUNTS):
        logp, advantages, mask = draw_tokens(count, dtype)
        mask[0] = True
        logp[0], advantages[0] = -1.25, 3.5
        (moments,) = run_cases(driver, [moments_case(logp, advantages, mask)])
        cases = [
            covariance_case(logp, advantages, mask, moments["sums"], offset=offset, seed=seed)
            for offset in (0, seed % 4 + 1)
        ]
        truth, baseline = (
            (x - x.mean()) * (a - a.mean())
            for x, a in (
                (logp[mask].double(), advantages[mask].double()),
                (logp[mask], advantages[mask]),
            )
        )
        for ours in run_cases(driver, cases):
            assert not ours["covariance"][~mask].any()
            assert_within_rule(
                "covariance", ours["covariance"][mask], truth, baseline, compute=dtype
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_covariance(driver: Path, dtype: torch.dtype) -> None:
    """Catches wrong means, padding that is not 0, a token out of place at an odd address."""
    check_covariance(driver, dtype)


def test_the_cpu_operator_gives_the_same_bits(driver: Path) -> None:
    """float32, whose sums are exact: catches means or products that one device rounds apart."""
    for count in COUNTS:
        logp, advantages, mask = draw_tokens(count, torch.float32)
        mask[0] = True
        logp[0], advantages[0] = -1.25, 3.5
        (moments,) = run_cases(driver, [moments_case(logp, advantages, mask)])
        (ours,) = run_cases(driver, [covariance_case(logp, advantages, mask, moments["sums"])])
        assert same_bits(ours["covariance"], covariance(logp, advantages, mask))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_covariance_by_hand(driver: Path, dtype: torch.dtype) -> None:
    """Five tokens of the paper's kind; a non-finite one beside them is NaN and moves no mean."""
    logp = torch.tensor([-0.05, -4, -0.1, -6, -0.2, -math.inf, -1, 7], dtype=dtype)
    advantages = torch.tensor([2, -0.5, -0.5, -0.5, -0.5, 0.0, math.inf, 7], dtype=dtype)
    mask = torch.tensor([True] * 7 + [False])
    (moments,) = run_cases(driver, [moments_case(logp, advantages, mask)])
    (ours,) = run_cases(driver, [covariance_case(logp, advantages, mask, moments["sums"])])
    found = ours["covariance"]
    assert found[:5].tolist() == pytest.approx([4.04, 0.965, -0.985, 1.965, -0.935])
    assert found[5:7].isnan().all()
    assert found[7] == 0
