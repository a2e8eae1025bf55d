"""Compiles the CUDA sources with the host compiler, against the emulation in this folder.

Objects and programs are kept in build/simt under the hash of what went into them, so that a second
run compiles nothing, and a fault planted in one kernel compiles that kernel only.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIMT = ROOT / "tests" / "simt"
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "simt"
EMULATION = ("collectives.cpp", "exp2.cpp", "fiber.cpp", "memory.cpp", "scheduler.cpp")
VOCABULARY_KERNELS, SELECTION_KERNELS = "*_stats*.cu", "token_selection_*.cu"
# Header folders of a CUDA toolkit, below its root.
INCLUDES = ("include", "targets/x86_64-linux/include", "targets/sbsa-linux/include")


class ToolchainMissing(Exception):
    """No host compiler, or no CUDA headers: says which."""


class CompilationError(Exception):
    """What the compiler said."""


@dataclass(frozen=True)
class Variant:
    """How to compile. `sanitize` is not told to the emulation where it would watch the watcher."""

    flags: tuple[str, ...]
    sanitize: tuple[str, ...] = ()
    instrument_emulation: bool = True


# Fusing only what the sources fuse, as nvcc is told to; local variables start as patterns, so that
# reading one before it is written shows.
_COMMON = ("-g1", "-ffp-contract=off", "-ftrivial-auto-var-init=pattern")
PLAIN = Variant(("-O2", *_COMMON))
ADDRESS = Variant(
    ("-O1", *_COMMON, "-fno-omit-frame-pointer"),
    ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
THREAD = Variant(("-O1", *_COMMON, "-DSIMT_TSAN"), ("-fsanitize=thread",), False)
UCONTEXT = Variant(("-O1", *_COMMON, "-DSIMT_UCONTEXT"))
# For sources that are compiled once and run for a moment, with some of their dtypes cut out.
QUICK = Variant(("-O1", *_COMMON, "-Wno-switch"))
QUICK_ADDRESS = Variant((*ADDRESS.flags, "-Wno-switch"), ("-fsanitize=address",))
QUICK_THREAD = Variant((*THREAD.flags, "-Wno-switch"), THREAD.sanitize, False)


@functools.cache
def compiler() -> str:
    name = os.environ.get("CXX", "g++")
    found = shutil.which(name)
    if found is None:
        raise ToolchainMissing(f"no host compiler: {name} is not on the path")
    return found


@functools.cache
def cuda_include() -> Path:
    """The folder of cuda_bf16.h: from CUDA_HOME, else from where nvcc says its toolkit is."""
    roots = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        dry_run = subprocess.run(
            [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True
        )
        roots += [Path(top) for top in re.findall(r"^#\$ TOP=(.*)$", dry_run.stderr, re.MULTILINE)]
    roots.append(Path("/usr/local/cuda"))
    for root in roots:
        for include in INCLUDES:
            if (root / include / "cuda_bf16.h").is_file():
                return (root / include).resolve()
    raise ToolchainMissing("no CUDA headers: neither CUDA_HOME nor nvcc leads to cuda_bf16.h")


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True).stdout


def _command(variant: Variant, csrc: Path, *, sanitize: bool) -> list[str]:
    return [
        # The pragmas are for nvcc.
        *(compiler(), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        *variant.flags,
        *(variant.sanitize if sanitize else ()),
        *("-isystem", str(cuda_include()), f"-I{csrc}", f"-I{SIMT}"),
    ]


def _digest(command: Iterable[str], files: Iterable[Path]) -> str:
    digest = hashlib.sha256(_compiler_version().encode())
    for part in command:
        digest.update(part.encode() + b"\0")
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def _make(command: Sequence[str], out: Path) -> Path:
    """Run the compiler unless `out` is there; several processes may want the same file at once."""
    if out.exists():
        out.touch()
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"{out.name}.{os.getpid()}")
    result = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
    if result.returncode != 0:
        raise CompilationError(f"{' '.join(command)}\n{result.stderr}")
    unfinished.replace(out)
    return out


def _with_headers(source: Path, csrc: Path) -> list[Path]:
    """`source` and the project headers it includes, directly or not."""
    found = [source]
    for file in found:
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', file.read_text(), re.MULTILINE):
            places = [folder / name for folder in (file.parent, csrc, SIMT)]
            header = next(place.resolve() for place in places if place.is_file())
            if header not in found:
                found.append(header)
    return found


def _compile(source: Path, variant: Variant, csrc: Path) -> Path:
    sanitize = variant.instrument_emulation or source.name not in EMULATION
    command = _command(variant, csrc, sanitize=sanitize)
    # A copy of csrc with one fault shares the objects of all files that the fault does not reach.
    relative = [part.replace(str(csrc), "csrc") for part in command]
    key = _digest(relative, _with_headers(source, csrc))
    out = CACHE / f"{source.name}-{key}.o"
    return _make([*command, "-x", "c++", "-c", str(source)], out)


def build(sources: Sequence[Path], variant: Variant, *, csrc: Path = CSRC) -> Path:
    """The program of `sources` and the emulation."""
    everything = [*(SIMT / name for name in EMULATION), *sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _compile(source, variant, csrc), everything))
    link = [compiler(), *variant.sanitize]
    return _make([*link, *map(str, objects)], CACHE / f"program-{_digest(link, objects)}")


def forget_unused(days: float = 3) -> None:
    """Remove what no run has wanted for that long."""
    for file in CACHE.glob("*"):
        if time.time() - file.stat().st_mtime > days * 86400:
            file.unlink(missing_ok=True)


def kernels(csrc: Path = CSRC, names: str = "*.cu") -> list[Path]:
    return sorted((csrc / "cuda").glob(names))


def build_driver(variant: Variant, *, csrc: Path = CSRC) -> Path:
    """driver.cpp with the kernels over the vocabulary."""
    return build([SIMT / "driver.cpp", *kernels(csrc, VOCABULARY_KERNELS)], variant, csrc=csrc)


def build_selection_driver(variant: Variant, *, csrc: Path = CSRC) -> Path:
    """selection_driver.cpp with the kernels over tokens."""
    sources = [SIMT / "selection_driver.cpp", *kernels(csrc, SELECTION_KERNELS)]
    return build(sources, variant, csrc=csrc)
