"""Faults planted one at a time in a copy of the kernels: each has to be caught.

A fault is a replacement of text that occurs exactly once; when a kernel changes so that it does
not, the test fails and the fault wants planting anew. What catches it are the tests of this folder,
called on the broken kernels.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from tests import draws
from tests.simt import test_sanitizers as sanitizers
from tests.simt import test_support_kernels as support
from tests.simt import test_token_stats_kernels as kernels
from tests.simt import toolchain
from tests.simt.emulator import ONE_MULTIPROCESSOR, KernelError, run_cases
from tests.simt.test_support_kernels import BROKEN
from tests.simt.toolchain import QUICK, QUICK_ADDRESS, QUICK_THREAD, Variant

KEPT_DTYPES = (torch.float32, torch.bfloat16)
DROPPED_CASE = re.compile(r"^ *case Dtype::(kFloat64|kFloat16): .*\n", re.MULTILINE)

REDUCE = "cuda/block_reduce.cuh"
IO = "cuda/vector_io.cuh"
FORWARD = "cuda/token_stats_forward.cu"
BACKWARD = "cuda/token_stats_backward.cu"
MOMENTS = "softmax_moments.h"
ROWS = "rows.h"
KEPT = "kept_ids.h"
SUPPORT = "cuda/support_stats.cu"
KEPT = "kept_ids.h"
SUPPORT = "cuda/support_stats.cu"


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    right: str
    wrong: str
    variant: Variant = QUICK


FAULTS = [
    Fault(
        "no barrier before the block's maximum",
        REDUCE,
        "  // Every warp reads the maxima of all the others.\n  __syncthreads();\n",
        "",
    ),
    Fault(
        "no barrier before the block's total",
        REDUCE,
        "  // Thread 0 reads what lane 0 of every warp wrote.\n  __syncthreads();\n",
        "",
    ),
    Fault(
        "threads leave before the barrier",
        FORWARD,
        "  const auto total = block_total(moments, scale.log2);\n",
        "  if (threadIdx.x >= 128) return;\n"
        "  const auto total = block_total(moments, scale.log2);\n",
    ),
    Fault(
        "a lane leaves before the shuffle",
        REDUCE,
        "    moments.add(shuffle_down(moments, lanes));\n",
        "    if (lane != 31) moments.add(shuffle_down(moments, lanes));\n",
    ),
    Fault(
        "shuffle over half the distance",
        REDUCE,
        "__shfl_down_sync(kAllLanes, moments.dot, lanes)",
        "__shfl_down_sync(kAllLanes, moments.dot, lanes / 2)",
    ),
    Fault("one warp too many", REDUCE, "int w = 1; w < kWarps", "int w = 1; w <= kWarps"),
    Fault("shared maxima not written", REDUCE, "  if (lane == 0) warp_max[warp] = max;\n", ""),
    Fault(
        "a vector past the end of the row",
        IO,
        "if (bytes_ == 0 && first >= begin_ && first + kWidth <= end_) {",
        "if (bytes_ == 0 && first >= begin_ && first < end_) {",
    ),
    Fault(
        "the upper half of a window past the end of the row",
        IO,
        "first + 2 * kWidth <= end_",
        "first + kWidth <= end_",
    ),
    Fault(
        "an element past the end of the row",
        IO,
        "column + i < end_;\n        Storage x;",
        "column + i <= end_;\n        Storage x;",
    ),
    Fault("misaligned loads", IO, "bytes_ == 0 && first >= begin_", "first >= begin_"),
    Fault("a window off by a word", IO, "bytes & 4 ? w[i + 1] : w[i]", "bytes & 4 ? w[i] : w[i]"),
    Fault(
        "a window past the end of the storage, though nothing from there is used",
        IO,
        "if (first >= begin_ && first + 2 * kWidth <= end_) {",
        "if (first >= begin_ && column + kWidth <= end_) {",
        QUICK_ADDRESS,
    ),
    Fault(
        "−∞ − (−∞) in a thread without a finite logit",
        FORWARD,
        "moments.max == negative_infinity<Real>() ? Real(0) : moments.max;",
        "moments.max;",
    ),
    Fault(
        "0·∞ for a logit of −∞",
        FORWARD,
        "at_least((z[i] - centre) * log2_scale, Constants<Real>::kDeadExponent);",
        "(z[i] - centre) * log2_scale;",
    ),
    Fault(
        "−∞ − (−∞) in the merge",
        MOMENTS,
        "  if (old_max == new_max) return Real(0);\n",
        "",
    ),
    Fault(
        "Σ e·u left at a thread's former maximum",
        FORWARD,
        "    dot = fused(sum, shift, dot) * factor;\n    sum",
        "    dot = dot * factor;\n    sum",
    ),
    Fault(
        "Σ e²·u left at a thread's former maximum",
        FORWARD,
        "square_dot = fused(square, shift, square_dot) * factor * factor;",
        "square_dot = square_dot * factor * factor;",
    ),
    Fault(
        "finite logits counted twice",
        FORWARD,
        "moments.live += kLoads * kWidth;",
        "moments.live += 2 * kLoads * kWidth;",
    ),
    Fault(
        "row offsets in 32 bits",
        ROWS,
        "return offset + row * layout.stride[0];",
        "return static_cast<int32_t>(offset + row * layout.stride[0]);",
    ),
    Fault(
        "segments merged from right to left",
        FORWARD,
        "for (int s = 0; s < segments; ++s) {",
        "for (int s = segments; s-- > 0;) {",
    ),
    Fault(
        "scratch memory for one segment only",
        FORWARD,
        "return rows * segments * kThreads *",
        "return rows * kThreads *",
    ),
    Fault(
        "many threads write the same constant",
        FORWARD,
        "  if (threadIdx.x != 0) return;\n",
        "",
        QUICK_THREAD,
    ),
    Fault(
        "a vector stored past the end of the row",
        BACKWARD,
        "column >= begin && column + kVector<Storage> <= end",
        "column >= begin && column < end",
    ),
    Fault(
        "an element stored before the row",
        BACKWARD,
        "if (column + i >= begin && column + i < end)",
        "if (column + i < end)",
    ),
    Fault(
        "no block for the vector beyond whole tiles",
        BACKWARD,
        "(params.vocab + kVector<Storage> - 1 + block_columns - 1)",
        "(params.vocab + block_columns - 1)",
    ),
    Fault(
        "a block's second tile left out",
        BACKWARD,
        "tile < block_end && tile < end; tile += kTile<Storage>",
        "tile < block_end && tile < end; tile += 2 * kTile<Storage>",
    ),
    Fault(
        "the gradient of an impossible token",
        BACKWARD,
        " && z[i] != negative_infinity<Real>()",
        "",
    ),
    Fault(
        "half of the kept ids",
        SUPPORT,
        "begin += kThreads * kGathers) {",
        "begin += 2 * kThreads * kGathers) {",
    ),
    Fault(
        "a kept id past the end of the vocabulary",
        KEPT,
        "ids_[at] < vocab &&",
        "ids_[at] <= vocab &&",
    ),
    Fault(
        "ids that do not increase",
        KEPT,
        "(at == 0 || ids_[at - 1] < ids_[at]);",
        "true;",
    ),
    Fault(
        "the token counted twice where it is listed",
        KEPT,
        "inserted_ = place_ == listed_ || ids_[place_] != token_;",
        "inserted_ = true;",
    ),
    Fault(
        "0·∞ for a kept logit of −∞",
        SUPPORT,
        "const Real u = at_least((z[v] - centre) * log2_scale, Constants<Real>::kDeadExponent);",
        "const Real u = (z[v] - centre) * log2_scale;",
    ),
    Fault(
        "the token's gradient of the whole row lost where it is kept",
        SUPPORT,
        "      of_whole = of_whole + whole.at_token;\n",
        "",
    ),
    Fault(
        "kept gradients without those of the whole row",
        SUPPORT,
        "narrow(of_whole + of_part, out + id);",
        "narrow(of_part, out + id);",
    ),
    Fault(
        "the gradient of an impossible token among the kept",
        SUPPORT,
        "id == all.tokens[row] && logit != negative_infinity<Real>()",
        "id == all.tokens[row]",
    ),
    Fault(
        "the gradient of a malformed row left as it is",
        SUPPORT,
        "if (stats[2 * all.rows] == -negative_infinity<Real>()) {",
        "if (stats[2 * all.rows] == negative_infinity<Real>()) {",
    ),
    Fault(
        "kept ids of masked rows looked at",
        SUPPORT,
        "const bool counts = row_counts<Storage>(params, row);",
        "const bool counts = true;",
    ),
    Fault(
        "masked rows read by the backward pass",
        BACKWARD,
        "if (masked(params, r)) {",
        "if (false) {",
    ),
]


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
        lambda driver: kernels.test_alignment_changes_no_bit(driver, 33, half),
        lambda driver: kernels.test_alignment_changes_no_bit(driver, 2053, single),
        lambda driver: kernels.test_masked_rows_are_zero_and_not_read(
            driver, ONE_MULTIPROCESSOR, single
        ),
        lambda driver: kernels.test_the_order_of_threads_and_blocks_changes_no_bit(driver, single),
        lambda driver: kernels.test_rows_spread_over_blocks_have_the_bits_of_rows_that_are_not(
            driver, single
        ),
        kernels.test_rows_four_billion_bytes_apart,
        kernels.test_bounds,
        lambda driver: support.check_rule(driver, "masked", 33, single),
        lambda driver: support.check_rule(driver, "randn", support.MANY, half),
        lambda driver: support.test_minus_infinity_and_what_is_not_a_number(driver, single),
        lambda driver: support.test_masked_rows_are_not_looked_at(driver, single),
        *(partial(support.test_malformed_rows_are_nan, what=what, dtype=single) for what in BROKEN),
        # Long enough that a thread meets a second tile in a segment, and there a larger maximum.
        lambda driver: kernels.check_drawn(driver, "randn", 50257, single),
        lambda driver: kernels.test_many_rows_have_the_bits_of_few(driver, single),
    ]


def build(folder: Path, variant: Variant, fault: Fault | None = None) -> Path:
    """The driver on a copy of csrc/ with two dtypes left, and with the fault."""
    csrc = folder / "csrc"
    shutil.copytree(toolchain.CSRC, csrc)
    for path in toolchain.kernels(csrc, toolchain.VOCABULARY_KERNELS):
        text, cut = DROPPED_CASE.subn("", path.read_text())
        assert cut >= 2, f"{path.name}: no switch over dtypes where one was"
        path.write_text(text)
    if fault is not None:
        path = csrc / fault.file
        text = path.read_text()
        found = text.count(fault.right)
        assert found == 1, f"{fault.file} holds {found} times, not once: {fault.right!r}"
        path.write_text(text.replace(fault.right, fault.wrong))
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
    driver = build(tmp_path, fault.variant, fault)
    for check in checks(fault.variant):
        try:
            check(driver)
        except (AssertionError, KernelError):
            return
    pytest.fail(f"nothing caught: {fault.name}")


def test_faults_are_planted_in_every_file_of_the_kernels() -> None:
    """Fails if a new kernel file has no fault of its own.

    Those of the selection are in test_selection_planted_faults.py.
    """
    files = {f"cuda/{path.name}" for path in (toolchain.CSRC / "cuda").glob("*.cu*")}
    selection = {name for name in files if re.match(r"cuda/token_(selection|groups)", name)}
    assert files - selection - {"cuda/launch.cuh"} <= {fault.file for fault in FAULTS}
    assert set(KEPT_DTYPES) < set(draws.DTYPES)
