"""Reading the compiler's report about kernels.

bench_data/ptxas.log is what nvcc 13.0 printed for three kernels on two architectures: one in order,
one that spills, one with a stack. bench_data/kernels.ptx is PTX of three others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.ptxas import (
    READERS,
    Kernel,
    PtxEntry,
    faults,
    missing,
    occupancy,
    parse_log,
    parse_ptx,
    short_name,
)

DATA = Path(__file__).parent / "bench_data"


def test_log_gives_every_kernel_its_own_numbers() -> None:
    """Fails if a kernel is missed, or takes its neighbour's spills; numbers read off the log."""
    found = {}
    for kernel in parse_log((DATA / "ptxas.log").read_text()):
        (kind,) = (
            kind for kind in ("forward", "backward", "stack") if f"{kind}_kernel" in kernel.name
        )
        found[kind, kernel.arch] = (kernel.registers, kernel.stack, kernel.spills, kernel.shared)
    assert found == {
        ("stack", 80): (32, 64, 0, 0),
        ("backward", 80): (32, 5072, 6504 + 10168, 0),
        ("forward", 80): (29, 0, 0, 128),
        ("stack", 90): (32, 64, 0, 0),
        ("backward", 90): (32, 5768, 7616 + 11216, 0),
        ("forward", 90): (29, 0, 0, 128),
    }


def test_log_without_resources_is_an_error() -> None:
    """Fails if a changed log format reads as kernels without spills."""
    log = "ptxas info    : Compiling entry function '_Zf' for 'sm_90'\n"
    with pytest.raises(ValueError, match="no resources for _Zf"):
        parse_log(log)


def test_ptx_gives_block_size_and_wide_accesses() -> None:
    """Fails if 4-byte accesses count as 16-byte ones, or one kernel's count for the next."""
    entries = parse_ptx((DATA / "kernels.ptx").read_text())
    found = {}
    for name, entry in entries.items():
        found["backward" if "backward" in name else "float" if "IfLi512" in name else "double"] = (
            entry
        )
    assert found == {
        "float": PtxEntry(threads=512, wide_loads=5, wide_stores=0),
        "double": PtxEntry(threads=256, wide_loads=5, wide_stores=0),
        "backward": PtxEntry(threads=None, wide_loads=1, wide_stores=1),
    }


@pytest.mark.parametrize(
    ("line", "loads", "stores"),
    [
        ("ld.global.nc.L1::no_allocate.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1];", 1, 0),
        ("ld.global.nc.v2.b64 {%rd4, %rd5}, [%rd1];", 1, 0),
        ("st.global.cs.v4.b32 [%rd1], {%r1, %r2, %r3, %r4};", 0, 1),
        ("ld.global.v2.f32 {%f1, %f2}, [%rd1];", 0, 0),
        ("ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r1];", 0, 0),
        ("ld.global.v4.b16 {%rs1, %rs2, %rs3, %rs4}, [%rd1];", 0, 0),
    ],
)
def test_only_16_bytes_of_global_memory_count_as_wide(line: str, loads: int, stores: int) -> None:
    """Fails if a narrower access, or one to shared memory, passes for a 16-byte global one."""
    entry = parse_ptx(f".visible .entry f(\n)\n{{\n\t{line}\n}}\n")["f"]
    assert (entry.wide_loads, entry.wide_stores) == (loads, stores)


def kernel(**changes: int) -> Kernel:
    """A kernel in order on sm_90, with the given numbers changed."""
    numbers = {"arch": 90, "registers": 32, "stack": 0, "spills": 0, "shared": 0} | changes
    return Kernel(name="_Zf", **numbers)


def test_faults() -> None:
    """Fails if a spill, a stack or a narrow access goes unnoticed, or a good kernel is blamed."""
    wide, narrow, reads = PtxEntry(512, 4, 4), PtxEntry(512, 0, 0), PtxEntry(512, 4, 0)
    assert faults("forward_rows<float>", kernel(), reads) == []
    assert faults("backward_rows<float>", kernel(), wide) == []
    assert faults("forward_merge<float>", kernel(), narrow) == []
    assert faults("forward_rows<float>", kernel(spills=8), wide) == ["8 bytes of spills"]
    assert faults("forward_merge<float>", kernel(stack=16), narrow) == ["16 bytes of stack"]
    assert faults("forward_rows<float>", kernel(arch=80, stack=16), wide) == []
    for name in ("forward_rows", "forward_segments", "count_digits", "sum_tokens"):
        assert faults(name, kernel(), narrow) == ["no 16-byte global load on sm_90"]
    assert faults("backward_rows<float>", kernel(arch=100), reads) == [
        "no 16-byte global store on sm_100"
    ]


def test_a_renamed_kernel_is_missed() -> None:
    """Fails if a kernel escapes the check of its accesses by a new name."""
    names = ["forward_merge<float>", *(f"{name}<float>" for name in READERS)]
    assert missing(names) == []
    names.remove("backward_rows<float>")
    assert missing([*names, "backward<double>"]) == ["backward_rows"]


@pytest.mark.parametrize(
    ("changes", "threads", "expected"),
    [
        ({"registers": 32}, 512, 1.0),  # 1024 registers a warp: all 64 warps
        ({"registers": 64}, 512, 0.5),  # 2048 a warp: 32 warps
        ({"registers": 40}, 512, 0.75),  # 1280 a warp: 51, so 48 in units of 4
        ({"registers": 32}, 32, 0.5),  # at most 32 blocks, of one warp each
        ({"registers": 32, "shared": 100 << 10}, 512, 0.5),  # 228 KB hold two blocks
        ({"registers": 32, "shared": 100 << 10, "arch": 80}, 512, 0.25),  # 164 KB hold one
    ],
)
def test_occupancy(changes: dict[str, int], threads: int, expected: float) -> None:
    """Fails if a limit of the multiprocessor is left out; the numbers are worked by hand."""
    assert occupancy(kernel(**changes), threads) == expected


def test_short_names_keep_template_arguments_only() -> None:
    """Fails if a parenthesis inside template arguments ends the name."""
    name = (
        "void entropy_ext::(anonymous namespace)::forward_kernel<float, (bool)1, 512>"
        "(entropy_ext::TokenStatsForward, long)"
    )
    assert short_name(name) == "forward_kernel<float, (bool)1, 512>"
