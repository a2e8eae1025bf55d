"""The CUDA kernels of token_stats, executed on the CPU: values, gradients, edges.

The same statements as tests/test_token_stats_*.py make of the compiled op, here of the .cu files,
with the scheduler's seed changing from case to case.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import draws
from tests.simt import toolchain
from tests.simt.emulator import MANY_MULTIPROCESSORS, ONE_MULTIPROCESSOR, Case, run_cases
from tests.truth import (
    DIFFERENTIABLE,
    EXTRAS,
    assert_within_rule,
    baseline_run,
    same_bits,
    stats_dtype,
    true_run,
)

# One less than whole tiles of every dtype: where rows follow each other without a gap, those that
# begin off a 16-byte boundary reach into one vector more.
WHOLE_TILES_LESS_ONE = 8191
# A last tile that is all but empty.
PAST_WHOLE_TILES = 8195
VOCABULARIES = (*draws.SMALL_VOCABULARIES, WHOLE_TILES_LESS_ONE, PAST_WHOLE_TILES)
ALL_DTYPES = pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)


@pytest.fixture(scope="module")
def driver() -> Path:
    return toolchain.build_driver(toolchain.PLAIN)


def ones_upstream(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Three different numbers, so that no two terms of the gradient cancel."""
    return tuple(torch.full((rows,), g, dtype=stats_dtype(dtype)) for g in (1.0, -0.5, 0.25))


def plain_case(kind: str, rows: int, vocab: int, dtype: torch.dtype, **fields: object) -> Case:
    logits = draws.draw_logits(kind, rows, vocab, dtype)
    return Case(
        logits,
        draws.draw_tokens(logits),
        draws.cycled_temperatures(rows, dtype),
        upstream=ones_upstream(rows, dtype),
        **fields,
    )


def check_rule(
    driver: Path,
    logits: Tensor,
    tokens: Tensor,
    *,
    ulps: int = 0,
    multiprocessors: int = ONE_MULTIPROCESSOR,
) -> list[dict[str, Tensor]]:
    """Every output and the gradient of every combination of upstreams against float64 truth."""
    rows, dtype = len(logits), logits.dtype
    temperature = draws.cycled_temperatures(rows, dtype)
    max_logp = true_run(logits, tokens, temperature).values["max_logp"]
    upstreams = draws.draw_upstreams(max_logp, 1e3 if dtype == torch.float16 else 1e6)
    truth = true_run(logits, tokens, temperature, upstreams)
    baseline = baseline_run(logits, tokens, temperature, upstreams)
    zero = torch.zeros(rows)
    ours = run_cases(
        driver,
        [
            Case(
                *(logits, tokens, temperature),
                extras=True,
                upstream=tuple(zero if g is None else g for g in upstream),
                multiprocessors=multiprocessors,
                seed=seed,
                ulps=ulps,
            )
            for seed, upstream in enumerate(upstreams)
        ],
    )

    compute = stats_dtype(dtype)
    for name in (*DIFFERENTIABLE, *EXTRAS):
        value = ours[0][name]
        assert_within_rule(name, value, truth.values[name], baseline.values[name], compute=compute)
    # The token's entry is V times larger than the others: its error must not excuse theirs.
    at_token = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, tokens[:, None], True)
    for i, place in itertools.product(range(len(upstreams)), (at_token, ~at_token)):
        if not place.any():
            continue
        assert_within_rule(
            f"gradient of upstream {i}",
            ours[i]["grad_logits"][place],
            truth.gradients[i][place],
            baseline.gradients[i][place],
            compute=compute,
            stored=dtype,
        )
    return ours


def check_drawn(driver: Path, kind: str, vocab: int, dtype: torch.dtype, ulps: int = 0) -> None:
    logits = draws.draw_logits(kind, 6 if vocab < 8000 else 3, vocab, dtype)
    check_rule(driver, logits, draws.draw_tokens(logits), ulps=ulps)


@ALL_DTYPES
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("kind", draws.KINDS)
def test_values_and_gradients(driver: Path, kind: str, vocab: int, dtype: torch.dtype) -> None:
    """Catches a wrong tail, merge, scale or term, a lost −inf, a finfo.min that overflows."""
    check_drawn(driver, kind, vocab, dtype)


@pytest.mark.parametrize(
    ("kind", "vocab", "dtype"),
    [
        *(("randn", 50257, dtype) for dtype in (torch.float32, torch.float64)),
        *(("randn", 151936, dtype) for dtype in (torch.bfloat16, torch.float16)),
        ("peaked", 50257, torch.float32),
        ("masked", 151936, torch.bfloat16),
    ],
    ids=str,
)
def test_values_and_gradients_at_a_real_vocabulary(
    driver: Path, kind: str, vocab: int, dtype: torch.dtype
) -> None:
    """Long enough that a thread meets several tiles of a segment, and a larger maximum there.

    Catches lost digits, sums not moved to a new maximum, a wrong merge of segments.
    """
    check_drawn(driver, kind, vocab, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["uniform", "peaked", "one_hot", "shifted"])
def test_exponentials_as_rough_as_the_hardware_s(
    driver: Path, kind: str, dtype: torch.dtype
) -> None:
    """ex2.approx errs by 2 ulp: catches sums that an exact exponential flatters."""
    check_drawn(driver, kind, 8192 + 3, dtype, ulps=2)


@ALL_DTYPES
@pytest.mark.parametrize("vocab", [33, 8192 + 3])
def test_minus_infinity(driver: Path, vocab: int, dtype: torch.dtype) -> None:
    """−inf in the first vector, in a whole tile, everywhere but once; tokens that are −inf too.

    Catches −inf − (−inf), 0·inf, and a gradient that is not exactly zero there.
    """
    logits = draws.draw_logits("randn", 8, vocab, dtype)
    sixteen_bytes = 16 // dtype.itemsize
    logits[0, :sixteen_bytes] = -torch.inf
    logits[1, : vocab // 2] = -torch.inf
    logits[2, vocab // 2 :] = -torch.inf
    for row, spared in ((3, 0), (4, vocab // 2), (5, vocab - 1)):
        value = logits[row, spared].clone()
        logits[row] = -torch.inf
        logits[row, spared] = value
    logits[6, 1::2] = -torch.inf
    logits[7, ::2] = -torch.inf
    tokens = torch.tensor([0, vocab - 1, vocab - 1, 0, 0, vocab - 1, 1, 2])
    for multiprocessors in (ONE_MULTIPROCESSOR, MANY_MULTIPROCESSORS):
        for ours in check_rule(driver, logits, tokens, multiprocessors=multiprocessors):
            assert not ours["grad_logits"][logits == -torch.inf].any()
            assert (ours["entropy"][3:6] == 0).all()


@ALL_DTYPES
@pytest.mark.parametrize("vocab", [1, 33, 8192 + 3])
@pytest.mark.parametrize("shared", [1, MANY_MULTIPROCESSORS], ids=["whole", "spread"])
def test_rows_that_have_no_distribution(
    driver: Path, vocab: int, dtype: torch.dtype, shared: int
) -> None:
    """All −inf, one NaN, one +inf, at either end: NaN there, forward and backward, not beside."""
    logits = draws.draw_logits("randn", 9, vocab, dtype)
    logits[1] = -torch.inf
    for row, column, value in (
        *((2, 0, math.nan), (3, vocab - 1, math.nan), (4, vocab // 2, math.nan)),
        *((5, 0, math.inf), (6, vocab - 1, math.inf)),
    ):
        logits[row, column] = value
    logits[7] = -torch.inf
    logits[7, vocab // 3] = math.nan
    tokens = torch.zeros(9, dtype=torch.int64)
    (ours,) = run_cases(
        driver,
        [
            Case(
                logits,
                tokens,
                torch.tensor(0.6),
                extras=True,
                upstream=ones_upstream(9, dtype),
                multiprocessors=shared,
            )
        ],
    )
    bad = torch.tensor([False] + [True] * 7 + [False])
    for name in (*DIFFERENTIABLE, *EXTRAS, "grad_logits"):
        nan = ours[name].isnan()
        assert nan[bad].all(), name
        assert not nan[~bad].any(), name


@ALL_DTYPES
def test_tokens_and_temperatures_out_of_range(driver: Path, dtype: torch.dtype) -> None:
    """No device-side check can raise: NaN in that row, and nothing read out of bounds."""
    vocab = 2053
    case = plain_case("randn", 8, vocab, dtype, extras=True)
    tokens, temperature = case.tokens.clone(), case.temperature.clone()
    tokens[0], tokens[1], tokens[2] = -1, vocab, 2**62
    temperature[3], temperature[4], temperature[5] = 0.0, -1.0, math.nan
    broken = dataclasses.replace(case, tokens=tokens, temperature=temperature)
    for shared in (1, MANY_MULTIPROCESSORS):
        good, bad = run_cases(
            driver,
            [dataclasses.replace(c, multiprocessors=shared) for c in (case, broken)],
        )
        for name in (*DIFFERENTIABLE, *EXTRAS, "grad_logits"):
            assert bad[name][:6].isnan().all(), name
            assert same_bits(bad[name][6:], good[name][6:]), name


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e6, 1e30])
def test_extreme_temperatures(driver: Path, temperature: float) -> None:
    """Greedy and flat limits stay finite: catches inf·0 where z/τ leaves the range."""
    logits = draws.draw_logits("randn", 4, 2053, torch.float32)
    tokens = logits.argmax(-1)
    (ours,) = run_cases(
        driver,
        [
            Case(
                logits,
                tokens,
                torch.tensor(temperature),
                extras=True,
                upstream=ones_upstream(4, torch.float32),
            )
        ],
    )
    greedy = temperature < 1
    expected = 0.0 if greedy else math.log(2053)
    assert ours["entropy"].tolist() == pytest.approx([expected] * 4, rel=1e-6)
    assert ours["logp"].tolist() == pytest.approx([-expected] * 4, rel=1e-5)
    assert ours["max_logp"].tolist() == pytest.approx([-expected] * 4, rel=1e-5)
    assert not ours["grad_logits"].isnan().any()


def test_bounds(driver: Path) -> None:
    """logp ≤ 0, 0 ≤ entropy ≤ ln n, 1/n ≤ collision ≤ 1, varentropy ≥ 0: rounding may not cross."""
    cases = [
        plain_case(kind, 6, vocab, torch.float32, extras=True, ulps=2, seed=seed)
        for seed, (kind, vocab) in enumerate(
            [
                *itertools.product(("one_hot", "masked", "finfo_min"), (1, 7, 33, 2053)),
                # Near the largest entropy, where rounding decides.
                *(("flat", vocab) for vocab in (1, 7, 33, *range(2048, 8192, 409))),
            ]
        )
    ]
    for case, ours in zip(cases, run_cases(driver, cases), strict=True):
        live = (case.logits > -torch.inf).sum(-1)
        most = live.double().log().float()
        assert (ours["logp"] <= 0).all()
        assert (ours["max_logp"] <= 0).all()
        assert ((ours["entropy"] >= 0) & (ours["entropy"] <= most)).all()
        assert ((ours["collision"] >= 1 / live) & (ours["collision"] <= 1)).all()
        assert (ours["varentropy"] >= 0).all()
