"""Faults planted one at a time in a copy of the kernels over tokens: each has to be caught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.simt import test_entropy_change_kernels as changes
from tests.simt import test_moments_kernels as moments
from tests.simt import test_selection_sanitizers as sanitizers
from tests.simt import test_steer_kernels as steer
from tests.simt import test_token_selection_kernels as kernels
from tests.simt import toolchain
from tests.simt.emulator import run_cases
from tests.simt.planting import Fault, assert_caught, copy_sources, plant
from tests.simt.selection_emulator import Form, Map, Rule
from tests.simt.toolchain import QUICK, QUICK_THREAD, Variant

RADIX = "cuda/token_selection_radix.cu"
SUMS = "cuda/token_selection_moments.cu"
WEIGHTS = "cuda/token_selection_weights.cu"
GROUPS = "cuda/token_groups.cuh"
MATH = "selection_math.h"

FAULTS = [
    Fault(
        "no barrier before the totals of the warps",
        RADIX,
        "  // Every warp reads the totals of all the others.\n  __syncthreads();\n",
        "",
    ),
    Fault(
        "no barrier before the state is read",
        RADIX,
        "  // All read what one thread has found.\n  __syncthreads();\n",
        "",
    ),
    Fault("bins that are not emptied", RADIX, "histogram[bin] = 0;", "histogram[bin] += 0;"),
    Fault(
        "no barrier between emptying and counting",
        RADIX,
        "  // Nobody counts in a bin before it is empty.\n  __syncthreads();\n",
        "",
    ),
    Fault(
        "no barrier between counting and adding up",
        RADIX,
        "  // All counts are in.\n  __syncthreads();\n",
        "",
    ),
    Fault(
        "an increment of shared memory that is not atomic",
        RADIX,
        "atomic_add(&histogram[digit], uint32_t{1});",
        "histogram[digit] += 1;",
        QUICK_THREAD,
    ),
    Fault(
        "an increment of global memory that is not atomic",
        RADIX,
        "atomic_add(&counters[bin], int64_t{histogram[bin]});",
        "counters[bin] += histogram[bin];",
        QUICK_THREAD,
    ),
    Fault(
        "every block writes the state",
        RADIX,
        "if (blockIdx.x == 0 && threadIdx.x == 0) params.states",
        "if (threadIdx.x == 0) params.states",
        QUICK_THREAD,
    ),
    Fault("a scan that leaves out a lane", RADIX, ">= lanes) x += other;", "> lanes) x += other;"),
    Fault("a threshold one off", RADIX, "below < state.need &&", "below <= state.need &&"),
    Fault(
        "a lane counted with the first and by itself",
        RADIX,
        "} else if (counts && !agrees) {",
        "} else if (counts) {",
    ),
    Fault("N without the excluded", RADIX, "tokens.valid(k) ?", "tokens.candidate(params, k) ?"),
    Fault(
        "ids not read for their first digit",
        RADIX,
        "pass >= keys.value_passes()",
        "pass > keys.value_passes()",
    ),
    Fault(
        "excluded tokens that are chosen", RADIX, "valid_[k] && !excluded_[k] &&", "valid_[k] &&"
    ),
    Fault(
        "the last digit one bit too short",
        MATH,
        "bits - static_cast<int>(digits) * kDigitBits : 0;",
        "bits - static_cast<int>(digits) * kDigitBits : 1;",
    ),
    Fault("−0 below +0", MATH, "  x = x + 0.0f;\n", ""),
    Fault("a NaN that is a candidate", MATH, "return value == value && (", "return ("),
    Fault("ids without a sign", MATH, "[position]) ^ (uint64_t{1} << 63);", "[position]);"),
    Fault(
        "a misaligned access",
        GROUPS,
        "reinterpret_cast<uintptr_t>(array) % sizeof(GroupAccess<T>) == 0",
        "array != nullptr",
    ),
    Fault(
        "a group past the end",
        GROUPS,
        "token_position(first, kTokens - 1) < count",
        "first < count",
    ),
    Fault(
        "a token stored past the end",
        GROUPS,
        "if (position < count) array",
        "if (position <= count) array",
    ),
    Fault(
        "tokens that do not exist", GROUPS, "absent && token_position(first, k) < count", "absent"
    ),
    Fault(
        "no barrier before the sums of the warps",
        SUMS,
        "  // Thread 0 reads what lane 0 of every warp wrote.\n  __syncthreads();\n",
        "",
    ),
    Fault("sums shifted by half", SUMS, "numbers[i], lanes);", "numbers[i], lanes / 2);"),
    Fault("a part left out", SUMS, "i += kThreads)", "i += 2 * kThreads)"),
    Fault("∞ among the sums", SUMS, "finite(logp[k]) && finite(advantages[k])", "finite(logp[k])"),
    Fault("the low part of a sum lost", MATH, "  add_exactly(sum, other[1]);\n", ""),
    Fault(
        "the rounding of a product lost", MATH, "  add_exactly(sum, fused(x, y, -product));\n", ""
    ),
    Fault(
        "no barrier before the range of the block",
        WEIGHTS,
        "  // Thread 0 reads what lane 0 of every warp wrote.\n  __syncthreads();\n",
        "",
    ),
    Fault(
        "padding in the range", WEIGHTS, "!valid[k] || sizes[k] != sizes[k]", "sizes[k] != sizes[k]"
    ),
    Fault("NaN in the range", WEIGHTS, "!valid[k] || sizes[k] != sizes[k]", "!valid[k]"),
    Fault(
        "a maximum that is not atomic",
        WEIGHTS,
        "atomic_max(&params.range[0], greatest);",
        "params.range[0] = larger(params.range[0], greatest);",
        QUICK_THREAD,
    ),
    Fault("padding that is clipped", WEIGHTS, "valid[k] && range.binds", "range.binds"),
    Fault("NaN from a masked row", MATH, "collision == zero ? zero : change;", "change;"),
]


def check_under_sanitizer(driver: Path) -> None:
    single = (torch.float32,)
    # Blocks enough that two in a row meet in one bin.
    run_cases(driver, sanitizers.select_cases((5000,), single)[:1])
    run_cases(driver, sanitizers.number_cases((2100,), single)[-1:])


def checks(variant: Variant) -> list[Callable[[Path], object]]:
    """Cheap ones first: most faults are caught by the first few."""
    if variant != QUICK:
        return [check_under_sanitizer]
    single, double = torch.float32, torch.float64
    some = (31, 4097)
    return [
        lambda driver: kernels.check_largest(driver, "ties", Rule.FLOOR, single, some),
        lambda driver: moments.check_moments(driver, double, some),
        lambda driver: steer.check_steer(driver, Form.EXACT, Map.LINEAR, single, some),
        lambda driver: changes.check_clipped(driver, single),
        lambda driver: changes.check_entropy_change(driver, single),
        lambda driver: kernels.test_alignment_changes_nothing(driver, single),
        lambda driver: kernels.check_largest(driver, "extremes", Rule.FLOOR, single, some),
        kernels.test_ties,
        lambda driver: steer.test_what_is_not_finite_has_no_part_in_the_range(driver, Map.EXP),
        steer.test_the_range_is_that_of_all_warps,
        lambda driver: moments.test_tokens_that_are_not_finite_are_skipped(driver, single),
        lambda driver: moments.test_merge(driver, 700),
        moments.test_order_and_split_of_the_tokens_change_no_mean,
        moments.test_the_order_of_threads_changes_no_bit,
    ]


def build(folder: Path, variant: Variant, fault: Fault) -> Path:
    csrc = copy_sources(folder)
    plant(fault, csrc)
    return toolchain.build_selection_driver(variant, csrc=csrc)


def test_the_kernels_without_a_fault_pass() -> None:
    """Without this, a check that fails on everything would count as catching every fault."""
    for variant in (QUICK, QUICK_THREAD):
        driver = toolchain.build_selection_driver(variant)
        for check in checks(variant):
            check(driver)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(tmp_path: Path, fault: Fault) -> None:
    """Fails if the tests of the kernels would let this fault pass."""
    assert_caught(fault, build(tmp_path, fault.variant, fault), checks(fault.variant))


def test_faults_are_planted_in_every_file_of_the_selection() -> None:
    """Fails if a new kernel file over tokens has no fault of its own."""
    files = {f"cuda/{path.name}" for path in toolchain.kernels(names=toolchain.SELECTION_KERNELS)}
    assert {*files, GROUPS, MATH} == {fault.file for fault in FAULTS}
