"""The emulation itself: right kernels pass, and each kind of wrong kernel is told apart.

Without these, a green run of the real kernels would show only that nothing was looked at.
"""

from __future__ import annotations

import math
import subprocess

import numpy as np
import pytest

from tests.simt import toolchain
from tests.simt.toolchain import ADDRESS, PLAIN, THREAD, UCONTEXT, Variant

SEEDS = range(6)


def run(variant: Variant, case: str, seed: int = 1) -> subprocess.CompletedProcess[str]:
    program = toolchain.build([toolchain.SIMT / "emulator_cases.cu"], variant)
    return subprocess.run([program, case, str(seed)], capture_output=True, text=True, timeout=60)


def floats(variant: Variant, case: str, seed: int = 1) -> list[float]:
    result = run(variant, case, seed)
    assert result.returncode == 0, result.stderr
    assert not result.stdout.startswith("error"), result.stdout
    return [float(word) for word in result.stdout.split()]


def shuffled(kind: str) -> list[float]:
    """What lane 0 … 31 receives, from the PTX description of shfl.sync."""
    if kind == "down 3 of 8":
        return [lane + 3 if lane % 8 + 3 < 8 else lane for lane in range(32)]
    if kind == "up 3 of 8":
        return [lane - 3 if lane % 8 >= 3 else lane for lane in range(32)]
    if kind == "xor 5":
        return [lane ^ 5 for lane in range(32)]
    return [lane // 16 * 16 + (lane * lane + 1) % 16 for lane in range(32)]


@pytest.mark.parametrize(
    "variant", [PLAIN, UCONTEXT, ADDRESS, THREAD], ids=["plain", "ucontext", "address", "thread"]
)
def test_right_kernels_give_right_answers(variant: Variant) -> None:
    """Fails if switching stacks loses a register, or if a sanitizer cries wolf."""
    for seed in SEEDS:
        assert floats(variant, "block_sum", seed)[:4] == [2016] * 4
        assert floats(variant, "neighbour", seed)[:2] == [1, 0]
        assert floats(variant, "reused", seed)[:4] == [3] * 4
        assert floats(variant, "half_masks", seed)[:4] == [120, 376, 632, 888]


def test_shuffles_follow_the_hardware() -> None:
    """Fails if a shuffle takes another lane than a GPU would: four kinds, three widths."""
    got = floats(PLAIN, "shuffles")
    for i, kind in enumerate(["down 3 of 8", "up 3 of 8", "xor 5", "index of 16"]):
        assert got[32 * i : 32 * i + 32] == shuffled(kind), kind


def test_fast_exp2_flushes_what_the_hardware_flushes() -> None:
    """Fails if a result below 2^−126 survives: the gradient of an unlikely token would differ."""
    got = floats(PLAIN, "exponentials")[:9]
    assert got[:7] == [0, 0, 2.0**-126, 1, 1, 1024, math.inf]
    assert math.isnan(got[7])
    assert got[8] == pytest.approx(math.sqrt(2), rel=2**-22)


def test_threads_and_blocks_come_in_an_order_of_the_seed() -> None:
    """Fails if the scheduler runs threads or blocks in order, which hides missing barriers."""
    orders = [floats(PLAIN, "order", seed) for seed in SEEDS]
    threads = {tuple(order[:64]) for order in orders}
    blocks = {tuple(order[64:68]) for order in orders}
    assert len(threads) == len(orders)
    assert len(blocks) > 1
    assert all(sorted(order[:64]) == list(range(64)) for order in orders)
    assert floats(PLAIN, "order", 0) == orders[0]


@pytest.mark.parametrize(
    ("case", "right"),
    [
        ("block_sum_without_barrier", [2016] * 4),
        ("neighbour_without_sync", [1, 0]),
        ("reused_without_barrier", [3] * 4),
    ],
)
def test_a_missing_barrier_gives_wrong_answers(case: str, right: list[float]) -> None:
    """Fails if a race goes unseen: by most seeds through its answer, by the sanitizer always."""
    wrong = [floats(PLAIN, case, seed)[: len(right)] != right for seed in SEEDS]
    assert sum(wrong) >= len(SEEDS) // 2
    assert "data race" in run(THREAD, case).stderr


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("barrier_of_half", "for thread 32, which has left the kernel"),
        ("two_barriers", "which waits at emulator_cases.cu"),
        ("leaves_before_shuffle", "for thread 5, which has left the kernel"),
        ("two_shuffles", "which waits at emulator_cases.cu"),
        ("reads_foreign_lane", "which is not in mask 0000ffff"),
        ("not_in_mask", "is not in its own mask fffffffe"),
        ("misaligned", "is not a multiple of 16"),
        ("misaligned_atomic", "is not a multiple of 8"),
        ("ballot_and_shuffle", "which waits at emulator_cases.cu"),
        ("beside_shared", "wrote beside shared array values"),
        ("too_much_shared", "49160 bytes in all"),
        ("no_block", "grid size"),
        ("part_of_a_warp", "block size"),
        ("too_many_threads", "block size"),
    ],
)
def test_what_the_hardware_leaves_undefined_is_an_error(case: str, error: str) -> None:
    """Fails if the emulation gives an answer where a GPU may hang or return anything."""
    for seed in SEEDS:
        result = run(PLAIN, case, seed)
        assert result.stdout.startswith("error: "), f"seed {seed}: {result.stdout[:200]}"
        assert error in result.stdout


def test_unwritten_shared_memory_is_nan() -> None:
    """Fails if shared memory starts as zeros, which hides a missing initialisation."""
    assert math.isnan(floats(PLAIN, "reads_unwritten")[0])


@pytest.mark.parametrize(
    ("case", "report"),
    [("writes_past_end", "heap-buffer-overflow"), ("beside_shared", "out of bounds")],
)
def test_the_address_sanitizer_sees_fibers(case: str, report: str) -> None:
    """Fails if the sanitizers are lost on the way through stacks that are not the thread's."""
    result = run(ADDRESS, case)
    assert result.returncode != 0
    assert report in result.stderr


@pytest.mark.parametrize("case", ["write_race", "block_race"])
def test_the_thread_sanitizer_sees_two_writes_of_the_same_value(case: str) -> None:
    """The one race whose answer is always right, within a block and between two."""
    assert "data race" in run(THREAD, case).stderr


@pytest.mark.parametrize("variant", [PLAIN, THREAD], ids=["plain", "thread"])
def test_atomic_sums_and_maxima(variant: Variant) -> None:
    """Fails if an update is lost, in shared or global memory, or passes for a race."""
    for seed in SEEDS:
        got = floats(variant, "counts", seed)
        assert got[:4] == [96] * 4
        assert np.array(got[64:68], np.float32).view(np.int64).tolist() == [256 << 40, 255]


@pytest.mark.parametrize(
    "case",
    [
        "counts_plainly_in_shared_memory",
        "counts_plainly_in_global_memory",
        "reads_while_others_count",
    ],
)
def test_the_thread_sanitizer_sees_a_plain_access_beside_atomic_ones(case: str) -> None:
    """No answer shows these here, where a fiber is not interrupted; the second is of two blocks."""
    for seed in SEEDS:
        assert "data race" in run(THREAD, case, seed).stderr


def test_ballots() -> None:
    """Fails if a lane outside of the mask votes, or a lane is told less than all."""
    got = floats(PLAIN, "ballots")
    assert got[:32] == [0xAAAA] * 32
    assert got[32:64] == [1 << 3] * 16 + [0b11 << 20] * 16
    assert got[64:96] == [1] * 16 + [2] * 16
    assert got[96:128] == [4] * 16 + [21] * 16
