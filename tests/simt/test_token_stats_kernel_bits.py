"""The CUDA kernels of token_stats, executed on the CPU: what may not change a bit.

Schedules, blocks per row, extras, alignment, neighbours, strides and masks; the same statements as
tests/test_token_stats_bitwise.py makes of the compiled op.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import draws
from tests.simt import toolchain
from tests.simt.emulator import MANY_MULTIPROCESSORS, Case, run_cases
from tests.simt.test_token_stats_kernels import (
    ALL_DTYPES,
    PAST_WHOLE_TILES,
    ones_upstream,
    plain_case,
)
from tests.truth import DIFFERENTIABLE, EXTRAS, same_bits


@pytest.fixture(scope="module")
def driver() -> Path:
    return toolchain.build_driver(toolchain.PLAIN)


def assert_same_results(a: dict[str, Tensor], b: dict[str, Tensor], what: str) -> None:
    for name in a.keys() & b.keys():
        assert same_bits(a[name], b[name]), f"{what}: {name} differs"


@ALL_DTYPES
def test_the_order_of_threads_and_blocks_changes_no_bit(driver: Path, dtype: torch.dtype) -> None:
    """Catches a missing barrier, and a sum whose order is a race."""
    case = plain_case("randn", 3, 8192 + 3, dtype, extras=True)
    results = run_cases(driver, [dataclasses.replace(case, seed=seed) for seed in range(12)])
    for seed, result in enumerate(results):
        assert_same_results(results[0], result, f"seed {seed}")


@ALL_DTYPES
def test_rows_spread_over_blocks_have_the_bits_of_rows_that_are_not(
    driver: Path, dtype: torch.dtype
) -> None:
    """Catches segments merged in another order, or a chunk lost or counted twice."""
    cases = [
        plain_case(kind, rows, vocab, dtype, extras=True, seed=seed)
        for seed, (kind, rows, vocab) in enumerate(
            itertools.product(("randn", "masked"), (1, 2), (33, 8192 + 3, 151936))
        )
    ]
    spread = [dataclasses.replace(case, multiprocessors=MANY_MULTIPROCESSORS) for case in cases]
    for whole, shared in zip(run_cases(driver, cases), run_cases(driver, spread), strict=True):
        assert_same_results(whole, shared, "spread")


@ALL_DTYPES
def test_extras_change_no_bit_of_the_others(driver: Path, dtype: torch.dtype) -> None:
    """Catches a second code path for logp, entropy or lse."""
    for vocab in (33, 8192 + 3):
        case = plain_case("peaked", 3, vocab, dtype)
        without, with_extras = run_cases(driver, [case, dataclasses.replace(case, extras=True)])
        assert_same_results(without, with_extras, f"V = {vocab}")


@ALL_DTYPES
@pytest.mark.parametrize("vocab", [33, 2048, 2053, PAST_WHOLE_TILES])
def test_alignment_changes_no_bit(driver: Path, vocab: int, dtype: torch.dtype) -> None:
    """Storage offset by 1 … 15 elements, rows apart by odd strides, NaN all around the rows.

    Catches a misaligned vector load, a column that alignment moves to another accumulator, and a
    read before the first or past the last column.
    """
    case = plain_case("peaked", 3, vocab, dtype, extras=True)
    cases = [case]
    for offset in (1, 2, 3, 5, 8, 15):
        for stride in (vocab, vocab + 1, vocab + 6):
            room = torch.full((offset + 3 * stride,), math.nan, dtype=dtype)
            view = room.as_strided((3, vocab), (stride, 1), offset)
            view.copy_(case.logits)
            cases.append(dataclasses.replace(case, logits=view, seed=offset))
    aligned, *others = run_cases(driver, cases)
    for other in others:
        assert_same_results(aligned, other, "offset")


@ALL_DTYPES
@pytest.mark.parametrize("offset", [0, 3])
def test_a_gradient_in_place_of_the_logits_has_the_same_bits(
    driver: Path, offset: int, dtype: torch.dtype
) -> None:
    """Catches a logit read after its entry has been written, at the ends of rows above all."""
    for vocab in (33, 2053, PAST_WHOLE_TILES):
        case = plain_case("peaked", 3, vocab, dtype)
        room = torch.empty(offset + 3 * vocab, dtype=dtype)
        placed = room[offset:].view(3, vocab).copy_(case.logits)
        case = dataclasses.replace(case, logits=placed, mask=torch.tensor([True, False, True]))
        assert_same_results(
            *run_cases(driver, [case, dataclasses.replace(case, inplace=True)]), f"V = {vocab}"
        )


@ALL_DTYPES
def test_a_row_does_not_know_its_neighbours(driver: Path, dtype: torch.dtype) -> None:
    """Catches state carried from row to row, and a map of columns that depends on the row count."""
    case = plain_case("peaked", 5, 2053, dtype, extras=True)
    together, *alone = run_cases(
        driver,
        [case]
        + [
            dataclasses.replace(
                case,
                logits=case.logits[r : r + 1].clone(),
                tokens=case.tokens[r : r + 1],
                temperature=case.temperature[r : r + 1],
                upstream=tuple(g[r : r + 1] for g in case.upstream),
            )
            for r in range(5)
        ],
    )
    for r, row in enumerate(alone):
        assert_same_results({n: x[r : r + 1] for n, x in together.items()}, row, f"row {r}")


def test_leading_dimensions_with_strides(driver: Path) -> None:
    """[B, T − 1, V] cut from [B, T, V], transposed and expanded: catches wrong row offsets."""
    base = draws.draw_logits("randn", 12, 33, torch.float32).reshape(3, 4, 33)
    for view in (base[:, :-1], base.transpose(0, 1)[1:], base[:, :1].expand(3, 4, 33)):
        rows = view.shape[0] * view.shape[1]
        dense = view.reshape(rows, 33).clone()
        case = Case(
            dense,
            draws.draw_tokens(dense),
            draws.cycled_temperatures(rows, torch.float32),
            upstream=ones_upstream(rows, torch.float32),
        )
        # Only storage, offset and strides of `logits` matter once a layout is given.
        strided = view.as_strided((rows, 33), (0, 1))
        layout = (view.shape[:-1], view.stride()[:-1])
        a, b = run_cases(driver, [case, dataclasses.replace(case, logits=strided, layout=layout)])
        assert_same_results(a, b, f"layout {layout}")


def test_rows_four_billion_bytes_apart(driver: Path) -> None:
    """Catches a row number times a stride in 32 bits."""
    case = plain_case("randn", 2, 2053, torch.bfloat16)
    far = dataclasses.replace(case, row_distance=2**31 + 8)
    assert_same_results(*run_cases(driver, [case, far]), "far")


@ALL_DTYPES
def test_many_rows_have_the_bits_of_few(driver: Path, dtype: torch.dtype) -> None:
    """The backward pass gives a block several tiles once rows abound: catches one lost or repeated.

    One row of storage stands for all rows, and all but a few of these are masked.
    """
    source = (toolchain.CSRC / "cuda" / "token_stats_backward.cu").read_text()
    constants = dict(re.findall(r"constexpr \w+ (kManyRows|kTilesPerBlock) = (\d+);", source))
    rows = int(constants["kManyRows"]) + 3
    tile = 256 * 4 * 16 // dtype.itemsize
    vocab = (int(constants["kTilesPerBlock"]) + 1) * tile + 3
    row = plain_case("peaked", 1, vocab, dtype)
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[[0, 1, 2, rows - 1]] = True
    many = dataclasses.replace(
        row,
        logits=row.logits.as_strided((rows, vocab), (0, 1)),
        tokens=row.tokens.expand(rows),
        temperature=row.temperature.expand(rows),
        upstream=tuple(g.expand(rows) for g in row.upstream),
        mask=mask,
    )
    few, ours = run_cases(driver, [row, many])
    for name in (*DIFFERENTIABLE, "grad_logits"):
        assert same_bits(ours[name][mask], few[name].expand(4, *few[name].shape[1:])), name
        assert not ours[name][~mask].any(), name


@ALL_DTYPES
@pytest.mark.parametrize("shared", [1, MANY_MULTIPROCESSORS], ids=["whole", "spread"])
def test_masked_rows_are_zero_and_not_read(driver: Path, shared: int, dtype: torch.dtype) -> None:
    """Masked rows hold NaN, an impossible token and temperature, and one is not there at all."""
    vocab = 8192 + 3
    case = plain_case("peaked", 5, vocab, dtype, extras=True)
    mask = torch.tensor([True, False, True, True, False])
    logits = case.logits.clone()
    logits[~mask] = math.nan
    masked = dataclasses.replace(
        case,
        logits=logits,
        tokens=case.tokens.masked_fill(~mask, 2**40),
        temperature=case.temperature.masked_fill(~mask, math.nan),
        upstream=tuple(g.masked_fill(~mask, math.nan) for g in case.upstream),
        mask=mask,
        withheld=vocab,
        multiprocessors=shared,
    )
    without, with_mask = run_cases(driver, [case, masked])
    for name in (*DIFFERENTIABLE, *EXTRAS, "grad_logits"):
        assert same_bits(with_mask[name][mask], without[name][mask]), name
        assert not with_mask[name][~mask].any(), name
