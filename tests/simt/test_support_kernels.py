"""The CUDA kernels of the kept ids, executed on the CPU.

The same statements as tests/test_token_stats_support.py makes of the compiled op, here of
support_stats.cu. Truth is that of the row in which every logit not kept is −inf.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from entropy_ext import Support
from tests import draws
from tests.simt import toolchain
from tests.simt.emulator import SUPPORT, Case, run_cases
from tests.truth import assert_within_rule, baseline_run, same_bits, stats_dtype, true_run

ALL_DTYPES = pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
RESULTS = ("logp", "entropy", "lse", *SUPPORT, "grad_logits")
# More ids than a block's threads gather at once.
MANY = 2053
INF = math.inf


@pytest.fixture(scope="module")
def driver() -> Path:
    return toolchain.build_driver(toolchain.PLAIN)


def csr(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    support = Support.from_lists(lists)
    return support.offsets, support.ids


def drawn_case(
    kind: str, rows: int, vocab: int, dtype: torch.dtype, **fields: object
) -> tuple[Case, list[list[int]]]:
    """Kept sets of every size; five different upstream gradients."""
    logits = draws.draw_logits(kind, rows, vocab, dtype)
    tokens = draws.draw_tokens(logits)
    lists = draws.draw_kept(logits, tokens)
    g = [torch.full((rows,), x, dtype=stats_dtype(dtype)) for x in (1.0, -0.5, 0.25, -2.0, 1.5)]
    case = Case(
        *(logits, tokens, draws.cycled_temperatures(rows, dtype)),
        upstream=(g[0], g[1], g[2]),
        support=csr(lists),
        upstream_support=(g[3], g[4]),
        **fields,  # type: ignore[arg-type]
    )
    return case, lists


def check_rule(driver: Path, kind: str, vocab: int, dtype: torch.dtype, ulps: int = 0) -> None:
    case, lists = drawn_case(kind, 6, vocab, dtype, ulps=ulps)
    logits, tokens = case.logits, case.tokens
    kept = torch.zeros(logits.shape, dtype=torch.bool)
    for r, row in enumerate(lists):
        kept[r, [*row, int(tokens[r])]] = True
    restricted = logits.masked_fill(~kept, -INF)
    largest = 1e3 if dtype == torch.float16 else 1e6
    # Of one sign: where two large terms cancel, the rule would compare what is left of a few.
    whole, part = (
        [
            g.abs()
            for g in draws.draw_upstreams(
                baseline_run(z, tokens, case.temperature).values["max_logp"], largest
            )[-1]
        ]
        for z in (logits, restricted)
    )
    zero = torch.zeros(6)
    upstreams = [
        ((zero,) * 3, (part[0], zero)),
        ((zero,) * 3, (zero, part[1])),
        (whole, part[:2]),
    ]
    answers = run_cases(
        driver,
        [
            dataclasses.replace(case, upstream=tuple(a), upstream_support=tuple(b), seed=seed)
            for seed, (a, b) in enumerate(upstreams)
        ],
    )
    at_token = torch.zeros_like(kept).scatter_(1, tokens[:, None], True)
    compute = stats_dtype(dtype)
    for ours, (a, b) in zip(answers, upstreams, strict=True):
        truth, baseline = (
            (
                run(logits, tokens, case.temperature, [tuple(a)]).gradients[0],
                run(restricted, tokens, case.temperature, [(*b, None)]),
            )
            for run in (true_run, baseline_run)
        )
        for name in ("logp", "entropy"):
            assert_within_rule(
                f"support_{name}",
                ours[f"support_{name}"],
                truth[1].values[name],
                baseline[1].values[name],
                compute=compute,
            )
        for place in (at_token, kept & ~at_token, ~kept):
            if place.any():
                assert_within_rule(
                    "gradient",
                    ours["grad_logits"][place],
                    (truth[0] + truth[1].gradients[0])[place],
                    (baseline[0] + baseline[1].gradients[0])[place],
                    compute=compute,
                    stored=dtype,
                )


@ALL_DTYPES
@pytest.mark.parametrize("vocab", [1, 33, MANY])
@pytest.mark.parametrize("kind", draws.KINDS)
def test_values_and_gradients(driver: Path, kind: str, vocab: int, dtype: torch.dtype) -> None:
    """Catches a lost token, a thread's second gathering lost, a term lost, rounding twice."""
    check_rule(driver, kind, vocab, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients_at_a_real_vocabulary(driver: Path, dtype: torch.dtype) -> None:
    """Up to 50257 ids, with the hardware's rough exponentials: catches digits lost on the way."""
    check_rule(driver, "randn", 50257, dtype, ulps=2)


@ALL_DTYPES
def test_the_order_of_threads_changes_no_bit(driver: Path, dtype: torch.dtype) -> None:
    """Catches a missing barrier, a sum whose order is a race, and two writers of one entry."""
    case, _ = drawn_case("randn", 6, MANY, dtype)
    first, *others = run_cases(driver, [dataclasses.replace(case, seed=s) for s in range(8)])
    for other in others:
        for name in RESULTS:
            assert same_bits(first[name], other[name]), name


@ALL_DTYPES
def test_a_token_listed_and_not_and_a_row_alone(driver: Path, dtype: torch.dtype) -> None:
    """Catches a token counted twice, and what a row takes from its neighbours."""
    case, lists = drawn_case("peaked", 6, MANY, dtype)
    rows = list(zip(lists, case.tokens.tolist(), strict=True))
    without = dataclasses.replace(case, support=csr([[*{*row} - {t}] for row, t in rows]))
    alone = dataclasses.replace(
        case,
        logits=case.logits[3:4].clone(),
        tokens=case.tokens[3:4],
        temperature=case.temperature[3:4],
        upstream=tuple(g[3:4] for g in case.upstream),
        support=csr(lists[3:4]),
        upstream_support=tuple(g[3:4] for g in case.upstream_support),
    )
    listed = dataclasses.replace(case, support=csr([[*row, t] for row, t in rows]))
    a, b, c = run_cases(driver, [without, listed, alone])
    for name in RESULTS:
        assert same_bits(a[name], b[name]), name
        assert same_bits(a[name][3:4], c[name]), name


@ALL_DTYPES
def test_the_rest_does_not_know_of_the_support(driver: Path, dtype: torch.dtype) -> None:
    """Catches a kernel that writes more than the kept entries."""
    case, lists = drawn_case("peaked", 6, MANY, dtype, extras=True)
    with_support, without = run_cases(
        driver, [case, dataclasses.replace(case, support=None, upstream_support=None)]
    )
    for name in without.keys() - {"grad_logits"}:
        assert same_bits(with_support[name], without[name]), name
    for r, row in enumerate(lists):
        elsewhere = torch.ones(MANY, dtype=torch.bool)
        elsewhere[[*row, int(case.tokens[r])]] = False
        got, expected = (x["grad_logits"][r][elsewhere] for x in (with_support, without))
        assert same_bits(got, expected)


@ALL_DTYPES
def test_minus_infinity_and_what_is_not_a_number(driver: Path, dtype: torch.dtype) -> None:
    """−inf kept, as the token, alone; NaN and +inf kept and not: as docs/numerics.md says."""
    logits = draws.draw_logits("randn", 6, 33, dtype)
    logits[:, 3:9] = -INF
    logits[3, 20] = math.nan
    logits[4, 20] = INF
    lists = [[1, 3, 5, 20], [3, 20, 21], [3, 4], [20, 21], [20, 21], [1, 2, 3]]
    tokens = torch.tensor([1, 4, 3, 1, 1, 2])
    case, _ = drawn_case("randn", 6, 33, dtype)
    (ours,) = run_cases(
        driver, [dataclasses.replace(case, logits=logits, tokens=tokens, support=csr(lists))]
    )
    assert ours["support_logp"][1] == -INF
    for name in ("support_logp", "support_entropy"):
        assert ours[name].isnan().tolist() == [False, False, True, True, True, False], name
    gradient = ours["grad_logits"]
    assert gradient[[0, 1, 5]].isfinite().all()
    assert (gradient[[0, 1, 5], 3:9] == 0).all()
    assert gradient[2].isnan().nonzero()[:, 0].tolist() == [3, 4]
    assert gradient[3:5].isnan().all()


@ALL_DTYPES
def test_masked_rows_are_not_looked_at(driver: Path, dtype: torch.dtype) -> None:
    """Masked rows hold NaN, an impossible token, a broken list: zeros, nothing read there."""
    case, _ = drawn_case("randn", 5, 33, dtype)
    mask = torch.tensor([True, False, False, True, False])
    logits, tokens = case.logits.clone(), case.tokens.clone()
    logits[~mask] = math.nan
    tokens[~mask] = 2**40
    offsets = torch.tensor([0, 2, -(2**50), 3, 5, 5])
    ids = torch.tensor([4, 9, 2**31 - 1, 0, 32], dtype=torch.int32)
    good = dataclasses.replace(case, support=csr([[4, 9], [], [], [0, 32], []]))
    masked = dataclasses.replace(
        case, logits=logits, tokens=tokens, mask=mask, support=(offsets, ids)
    )
    expected, got = run_cases(driver, [good, masked])
    for name in RESULTS:
        assert same_bits(got[name][mask], expected[name][mask]), name
        assert not got[name][~mask].any(), name


BROKEN = {
    "id below": ([0, 2, 4, 6], [1, 5, -1, 5, 1, 5]),
    "id above": ([0, 2, 4, 6], [1, 5, 1, 33, 1, 5]),
    "far id": ([0, 2, 4, 6], [1, 5, 1, 2**31 - 1, 1, 5]),
    "repeated": ([0, 2, 4, 6], [1, 5, 2, 2, 1, 5]),
    "falling": ([0, 2, 4, 6], [1, 5, 5, 1, 1, 5]),
}
BROKEN_OFFSETS = {
    "decreasing": ([0, 2, 1, 6], [False, True, False]),
    "far": ([0, 2, 2**40, 6], [False, True, True]),
    "negative": ([0, -1, 2, 6], [True, True, False]),
    "from one": ([1, 2, 4, 6], [True, False, False]),
    "to five": ([0, 2, 4, 5], [False, False, True]),
}


@ALL_DTYPES
@pytest.mark.parametrize("what", [*BROKEN, *BROKEN_OFFSETS])
def test_malformed_rows_are_nan(driver: Path, what: str, dtype: torch.dtype) -> None:
    """No check can raise here: NaN in that row and its gradient, no read out of bounds."""
    logits = draws.draw_logits("randn", 3, 33, dtype)
    case, _ = drawn_case("randn", 3, 33, dtype)
    if what in BROKEN:
        offsets, ids = BROKEN[what]
        bad = torch.tensor([False, True, False])
    else:
        offsets, rows = BROKEN_OFFSETS[what]
        ids, bad = [1, 5, 8, 9, 11, 15], torch.tensor(rows)
    support = (torch.tensor(offsets), torch.tensor(ids, dtype=torch.int32))
    tokens = torch.tensor([5, 5, 6])
    (ours,) = run_cases(
        driver, [dataclasses.replace(case, logits=logits, tokens=tokens, support=support)]
    )
    for name in ("support_logp", "support_entropy"):
        assert torch.equal(ours[name].isnan(), bad), name
    assert torch.equal(ours["grad_logits"].isnan(), bad[:, None].expand(3, 33))
    assert ours["logp"].isfinite().all()


@ALL_DTYPES
def test_tokens_and_temperatures_out_of_range(driver: Path, dtype: torch.dtype) -> None:
    """Catches a kept set searched, or a gradient written, for a token that is not there."""
    case, _ = drawn_case("randn", 6, 33, dtype)
    tokens, temperature = case.tokens.clone(), case.temperature.clone()
    tokens[0], tokens[1], tokens[2] = -1, 33, 2**62
    temperature[3] = math.nan
    good, bad = run_cases(
        driver, [case, dataclasses.replace(case, tokens=tokens, temperature=temperature)]
    )
    for name in ("support_logp", "support_entropy", "grad_logits"):
        assert bad[name][:4].isnan().all(), name
        assert same_bits(bad[name][4:], good[name][4:]), name
