"""Faults planted one at a time in a copy of the kernels over the vocabulary: each has to be caught.

What catches it are the tests of this folder, called on the broken kernels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests import draws
from tests.simt import test_sanitizers as sanitizers
from tests.simt import test_support_kernels as support
from tests.simt import test_token_stats_kernel_bits as bits
from tests.simt import test_token_stats_kernels as kernels
from tests.simt import toolchain
from tests.simt.emulator import ONE_MULTIPROCESSOR, run_cases
from tests.simt.planting import Fault, assert_caught, copy_sources, plant
from tests.simt.test_support_kernels import BROKEN
from tests.simt.toolchain import QUICK, Variant
from tests.simt.vocabulary_faults import FAULTS

KEPT_DTYPES = (torch.float32, torch.bfloat16)
DROPPED_CASE = re.compile(r"^ *case Dtype::(kFloat64|kFloat16): .*\n", re.MULTILINE)


def check_under_sanitizer(driver: Path) -> None:
    run_cases(driver, sanitizers.cases((33, 2053), KEPT_DTYPES))


def checks(variant: Variant) -> list[Callable[[Path], object]]:
    """Cheap ones first: most faults are caught by the first few."""
    if variant != QUICK:
        return [check_under_sanitizer]
    single, half = KEPT_DTYPES
    vocab = kernels.WHOLE_TILES_LESS_ONE
    return [
        lambda driver: kernels.check_drawn(driver, "masked", 33, single),
        lambda driver: kernels.check_drawn(driver, "masked", 33, half),
        lambda driver: kernels.check_drawn(driver, "peaked", vocab, single),
        lambda driver: kernels.test_minus_infinity(driver, 33, single),
        lambda driver: kernels.test_minus_infinity(driver, kernels.PAST_WHOLE_TILES, half),
        lambda driver: bits.test_alignment_changes_no_bit(driver, 33, half),
        lambda driver: bits.test_alignment_changes_no_bit(driver, 2053, single),
        lambda driver: bits.test_masked_rows_are_zero_and_not_read(
            driver, ONE_MULTIPROCESSOR, single
        ),
        lambda driver: bits.test_the_order_of_threads_and_blocks_changes_no_bit(driver, single),
        lambda driver: bits.test_rows_spread_over_blocks_have_the_bits_of_rows_that_are_not(
            driver, single
        ),
        bits.test_rows_four_billion_bytes_apart,
        kernels.test_bounds,
        lambda driver: support.check_rule(driver, "masked", 33, single),
        lambda driver: support.check_rule(driver, "randn", support.MANY, half),
        lambda driver: support.test_minus_infinity_and_what_is_not_a_number(driver, single),
        lambda driver: support.test_masked_rows_are_not_looked_at(driver, single),
        *(partial(support.test_malformed_rows_are_nan, what=what, dtype=single) for what in BROKEN),
        # Long enough that a thread meets a second tile in a segment, and there a larger maximum.
        lambda driver: kernels.check_drawn(driver, "randn", 50257, single),
        lambda driver: bits.test_many_rows_have_the_bits_of_few(driver, single),
    ]


def build(folder: Path, variant: Variant, fault: Fault | None = None) -> Path:
    """The driver on a copy of csrc/ with two dtypes left, and with the fault."""
    csrc = copy_sources(folder)
    for path in toolchain.kernels(csrc, toolchain.VOCABULARY_KERNELS):
        text, cut = DROPPED_CASE.subn("", path.read_text())
        assert cut >= 2, f"{path.name}: no switch over dtypes where one was"
        path.write_text(text)
    if fault is not None:
        plant(fault, csrc)
    return toolchain.build_driver(variant, csrc=csrc)


def test_the_copy_without_a_fault_passes(tmp_path: Path) -> None:
    """Without this, a check that fails on everything would count as catching every fault.

    Under the sanitizers, test_sanitizers.py says the same of the kernels as they are.
    """
    driver = build(tmp_path, QUICK)
    for check in checks(QUICK):
        check(driver)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(tmp_path: Path, fault: Fault) -> None:
    """Fails if the tests of the kernels would let this fault pass."""
    assert_caught(fault, build(tmp_path, fault.variant, fault), checks(fault.variant))


def test_faults_are_planted_in_every_file_of_the_kernels() -> None:
    """Fails if a new kernel file has no fault of its own.

    Those of the selection are in test_selection_planted_faults.py.
    """
    files = {f"cuda/{path.name}" for path in (toolchain.CSRC / "cuda").glob("*.cu*")}
    selection = {name for name in files if re.match(r"cuda/token_(selection|groups)", name)}
    assert files - selection - {"cuda/launch.cuh"} <= {fault.file for fault in FAULTS}
    assert set(KEPT_DTYPES) < set(draws.DTYPES)
