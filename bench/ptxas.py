"""What the compiler made of the CUDA kernels: `python -m bench.ptxas`, no GPU needed.

Compiles csrc/cuda/*.cu with the flags of CMakeLists.txt, and reads the resource report of ptxas and
the PTX. Fails when a kernel on sm_90 spills or keeps a stack in local memory, or when a kernel over
the vocabulary or over all tokens lacks 16-byte global accesses.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.table import Table

from bench.report import wide_console

__all__ = [
    "Kernel",
    "PtxEntry",
    "faults",
    "missing",
    "occupancy",
    "parse_log",
    "parse_ptx",
    "short_name",
]

SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
ARCHITECTURES = (80, 90, 100)
BINDING_ARCHITECTURE = 90
FLAGS = ("-O3", "-std=c++17", "-lineinfo", "-fmad=false")


@dataclass(frozen=True)
class Kernel:
    """Resources of one kernel on one architecture, from the log of ptxas -v."""

    name: str
    """Mangled."""
    arch: int
    registers: int
    stack: int
    """Bytes of local memory per thread."""
    spills: int
    """Bytes of spill stores and loads."""
    shared: int
    """Bytes of static shared memory per block."""


@dataclass(frozen=True)
class PtxEntry:
    """What the PTX of one kernel says."""

    threads: int | None
    """Threads per block, where __launch_bounds__ states them."""
    wide_loads: int
    """Global loads of 16 bytes."""
    wide_stores: int
    """Global stores of 16 bytes."""


COMPILING = re.compile(r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\d+)\w*'")
MEMORY = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads"
)
REGISTERS = re.compile(r"Used (?P<registers>\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def parse_log(log: str) -> list[Kernel]:
    """The kernels in the output of `nvcc -Xptxas -v`, in its order."""
    kernels = []
    for block in re.split(r"(?=ptxas info\s+: Compiling entry function)", log):
        entry, memory = COMPILING.search(block), MEMORY.search(block)
        registers, shared = REGISTERS.search(block), SHARED.search(block)
        if entry is None:
            continue
        if memory is None or registers is None:
            raise ValueError(f"ptxas reported no resources for {entry['name']}:\n{block}")
        kernels.append(
            Kernel(
                name=entry["name"],
                arch=int(entry["arch"]),
                registers=int(registers["registers"]),
                stack=int(memory["stack"]),
                spills=int(memory["stores"]) + int(memory["loads"]),
                shared=int(shared[1]) if shared else 0,
            )
        )
    return kernels


ENTRY = re.compile(r"^(?:\.visible )?\.entry (?P<name>\w+)\((?P<body>.*?)^}", re.M | re.S)
THREADS = re.compile(r"^\.(?:max|req)ntid (\d+)(?:, (\d+))?(?:, (\d+))?", re.M)
WIDE = r"{}\.global(?:\.[\w:]+)*\.(?:v4\.[bfsu]32|v2\.[bfsu]64)\b"
WIDE_LOAD, WIDE_STORE = re.compile(WIDE.format("ld")), re.compile(WIDE.format("st"))


def parse_ptx(ptx: str) -> dict[str, PtxEntry]:
    """The kernels of a PTX file, by mangled name."""
    entries = {}
    for match in ENTRY.finditer(ptx):
        body = match["body"]
        threads = THREADS.search(body)
        count = None
        if threads:
            count = 1
            for size in threads.groups():
                count *= int(size or 1)
        entries[match["name"]] = PtxEntry(
            count, len(WIDE_LOAD.findall(body)), len(WIDE_STORE.findall(body))
        )
    return entries


# Of the streaming multiprocessors of compute capability 8.0, 9.0 and 10.0 (CUDA C++ Programming
# Guide, technical specifications per compute capability).
WARPS_PER_SM, BLOCKS_PER_SM, REGISTERS_PER_SM = 64, 32, 65536
SHARED_PER_SM = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}
RESERVED_SHARED = 1 << 10
REGISTER_UNIT = 256
WARP_UNIT = 4


def occupancy(kernel: Kernel, threads: int) -> float:
    """Fraction of a multiprocessor's warps that can be resident, dynamic shared memory aside."""
    warps = -(-threads // 32)
    registers_per_warp = -(-kernel.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    warps_by_registers = REGISTERS_PER_SM // registers_per_warp // WARP_UNIT * WARP_UNIT
    blocks = min(
        BLOCKS_PER_SM,
        WARPS_PER_SM // warps,
        warps_by_registers // warps,
        SHARED_PER_SM[kernel.arch] // (kernel.shared + RESERVED_SHARED),
    )
    return blocks * warps / WARPS_PER_SM


# The kernels that read the vocabulary or every token, by the start of their names, and those that
# write as much; the others see a few numbers per row, or write a byte per token.
READERS = (
    *("forward_rows", "forward_segments", "backward_rows"),
    *("sum_tokens", "token_covariance", "clipped_tokens", "count_digits", "mark_selected"),
    *("entropy_change", "steer_range", "steer_weights"),
)
WRITERS = ("backward_rows", "token_covariance", "entropy_change", "steer_range", "steer_weights")


def faults(name: str, kernel: Kernel, entry: PtxEntry) -> list[str]:
    """What is wrong with a kernel of this (demangled) name, empty when nothing is."""
    found = []
    if kernel.arch == BINDING_ARCHITECTURE:
        if kernel.spills:
            found.append(f"{kernel.spills} bytes of spills")
        if kernel.stack:
            found.append(f"{kernel.stack} bytes of stack")
    if name.startswith(READERS) and not entry.wide_loads:
        found.append(f"no 16-byte global load on sm_{kernel.arch}")
    if name.startswith(WRITERS) and not entry.wide_stores:
        found.append(f"no 16-byte global store on sm_{kernel.arch}")
    return found


def missing(names: Sequence[str]) -> list[str]:
    """Kernels to check that are not among these: renamed, they would escape the checks."""
    return [reader for reader in READERS if not any(name.startswith(reader) for name in names)]


def demangle(names: Sequence[str]) -> list[str]:
    """Readable names, where a demangler is installed."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None:
        return list(names)
    output = subprocess.run(
        [tool], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    return [short_name(name) for name in output.splitlines()]


def short_name(name: str) -> str:
    """A demangled kernel without return type, namespaces of ours, and parameters."""
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    name = name.replace("entropy_ext::", "")
    depth = 0
    for position, character in enumerate(name):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            return name[:position]
    return name


def compile_source(
    source: Path, directory: Path
) -> tuple[list[Kernel], dict[int, dict[str, PtxEntry]]]:
    """Compile one file for every architecture. Returns its kernels, and the PTX entries by arch."""
    targets = [
        word
        for arch in ARCHITECTURES
        for word in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")
    ]
    keep = ("--keep", "--keep-dir", str(directory))
    command = [
        "nvcc",
        *FLAGS,
        *targets,
        "-Xptxas",
        "-v",
        *keep,
        "-c",
        "-o",
        "/dev/null",
        str(source),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    ptx = {
        arch: parse_ptx((directory / f"{source.stem}.compute_{arch}.ptx").read_text())
        for arch in ARCHITECTURES
    }
    return parse_log(result.stderr), ptx


def across(values: Iterable[str]) -> str:
    """What the architectures say, once if they agree."""
    found = list(values)
    return found[0] if len(set(found)) == 1 else " ".join(found)


def row_of(builds: Sequence[tuple[Kernel, PtxEntry]]) -> list[str]:
    """The numbers of one kernel, built for each architecture."""
    kernels, entries = zip(*builds, strict=True)
    resident = (
        "–" if entry.threads is None else f"{occupancy(kernel, entry.threads):.0%}"
        for kernel, entry in builds
    )
    return [
        across(str(kernel.registers) for kernel in kernels),
        across(str(kernel.spills) for kernel in kernels),
        across(str(kernel.stack) for kernel in kernels),
        across(str(kernel.shared) for kernel in kernels),
        across("–" if entry.threads is None else str(entry.threads) for entry in entries),
        across(resident),
        across(str(entry.wide_loads) for entry in entries),
        across(str(entry.wide_stores) for entry in entries),
    ]


def main() -> None:
    """Print registers, spills, stack and shared memory of every kernel; fail on a fault."""
    console = wide_console()
    sources = sorted(SOURCES.glob("*.cu"))
    if shutil.which("nvcc") is None:
        console.print("nvcc is not on PATH: install the CUDA toolkit to compile the kernels")
        raise typer.Exit(1)
    builds: dict[str, list[tuple[Kernel, PtxEntry]]] = {}
    for source in sources:
        with tempfile.TemporaryDirectory() as directory, console.status(f"nvcc {source.name}"):
            kernels, ptx = compile_source(source, Path(directory))
        for kernel, name in zip(kernels, demangle([each.name for each in kernels]), strict=True):
            builds.setdefault(name, []).append((kernel, ptx[kernel.arch][kernel.name]))

    architectures = " ".join(str(arch) for arch in ARCHITECTURES)
    table = Table(
        title=f"Kernels on sm {architectures}: one number where they agree", title_justify="left"
    )
    table.add_column("kernel", overflow="fold")
    for heading in ("registers", "spills", "stack", "shared", "threads", "occupancy"):
        table.add_column(heading, justify="right")
    table.add_column("16-byte loads", justify="right")
    table.add_column("stores", justify="right")
    found = [f"{reader}: no kernel of this name" for reader in missing(list(builds))]
    for name, each in sorted(builds.items()):
        table.add_row(name, *row_of(each))
        found += [f"{name}: {fault}" for build in each for fault in faults(name, *build)]
    console.print(table)
    for fault in found:
        console.print(fault, style="red", highlight=False)
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    typer.run(main)
