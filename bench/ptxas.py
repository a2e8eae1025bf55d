"""What the compiler made of the CUDA kernels: `python -m bench.ptxas`, no GPU needed.

Compiles csrc/cuda/*.cu with the flags of CMakeLists.txt, and reads the resource report of ptxas and
the PTX. Fails when a kernel on sm_90 spills or keeps a stack in local memory, or when a vocabulary
kernel lacks 16-byte global accesses.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.table import Table

from bench.report import wide_console

__all__ = ["Kernel", "PtxEntry", "faults", "occupancy", "parse_log", "parse_ptx", "short_name"]

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


def faults(name: str, kernel: Kernel, entry: PtxEntry) -> list[str]:
    """What is wrong with a kernel of this (demangled) name, empty when nothing is."""
    found = []
    if kernel.arch == BINDING_ARCHITECTURE:
        if kernel.spills:
            found.append(f"{kernel.spills} bytes of spills")
        if kernel.stack:
            found.append(f"{kernel.stack} bytes of stack")
    # By name: "forward" reads the vocabulary, "backward" reads and writes it.
    if re.search("forward|backward", name) and not entry.wide_loads:
        found.append("no 16-byte global load")
    if "backward" in name and not entry.wide_stores:
        found.append("no 16-byte global store")
    return found


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


def table_of(
    title: str, kernels: Sequence[Kernel], ptx: dict[int, dict[str, PtxEntry]]
) -> tuple[Table, bool]:
    """The kernels of one file as a table, and whether any is at fault."""
    table = Table(title=title, title_justify="left")
    table.add_column("kernel", overflow="fold")
    headings = "sm", "registers", "spills", "stack", "shared", "threads", "occupancy"
    for heading in (*headings, "16-byte loads", "stores"):
        table.add_column(heading, justify="right")
    table.add_column("fault", style="red")
    failed = False
    for kernel, name in zip(kernels, demangle([kernel.name for kernel in kernels]), strict=True):
        entry = ptx[kernel.arch][kernel.name]
        found = faults(name, kernel, entry)
        failed = failed or bool(found)
        resources = (kernel.arch, kernel.registers, kernel.spills, kernel.stack, kernel.shared)
        launch = (
            ("–", "–")
            if entry.threads is None
            else (str(entry.threads), f"{occupancy(kernel, entry.threads):.0%}")
        )
        table.add_row(
            name,
            *map(str, resources),
            *launch,
            str(entry.wide_loads),
            str(entry.wide_stores),
            ", ".join(found),
        )
    return table, failed


def main() -> None:
    """Print registers, spills, stack and shared memory of every kernel; fail on a fault."""
    console = wide_console()
    sources = sorted(SOURCES.glob("*.cu"))
    if shutil.which("nvcc") is None:
        console.print("nvcc is not on PATH: install the CUDA toolkit to compile the kernels")
        raise typer.Exit(1)
    if not sources:
        console.print(f"no .cu files in {SOURCES}")
        raise typer.Exit(1)
    any_failed = False
    for source in sources:
        with tempfile.TemporaryDirectory() as directory, console.status(f"nvcc {source.name}"):
            kernels, ptx = compile_source(source, Path(directory))
        table, failed = table_of(source.name, kernels, ptx)
        console.print(table)
        any_failed = any_failed or failed
    raise typer.Exit(1 if any_failed else 0)


if __name__ == "__main__":
    typer.run(main)
