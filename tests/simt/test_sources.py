"""What the sources may include, so that they compile without nvcc, Python or torch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simt.toolchain import CSRC, kernels

SOURCES = sorted(
    path for path in CSRC.rglob("*") if path.suffix in {".h", ".cuh", ".cpp", ".cu", ".hpp"}
)
KERNEL_FILES = sorted(path for path in (CSRC / "cuda").iterdir() if path.suffix in {".cu", ".cuh"})
BINDING = {path for path in SOURCES if path.parent == CSRC and path.name.startswith("bind")}
PORTABILITY_HEADER = CSRC / "cuda" / "launch.cuh"
STANDARD = {
    *("algorithm", "array", "cmath", "cstddef", "cstdint", "cstring", "functional", "limits"),
    *("memory", "string", "tuple", "type_traits", "utility", "vector"),
}


def includes(path: Path) -> list[tuple[str, str]]:
    """(bracket, name) of every #include."""
    return re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(CSRC))


def test_the_sources_are_where_this_file_looks() -> None:
    """Fails if a move of csrc/ leaves the tests below with nothing to look at."""
    assert {name(path) for path in kernels()} >= {
        "cuda/token_stats_forward.cu",
        "cuda/token_stats_backward.cu",
    }
    assert CSRC / "bindings.cpp" in BINDING
    assert all(includes(path) for path in kernels())


@pytest.mark.parametrize("path", KERNEL_FILES, ids=name)
def test_kernel_files_see_cuda_through_the_portability_header(path: Path) -> None:
    """Fails if a kernel reaches past launch.cuh, or asks which compiler it is read by."""
    if path == PORTABILITY_HEADER:
        return
    for bracket, included in includes(path):
        if bracket == "<":
            assert included in STANDARD, f"<{included}>"
        else:
            candidates = (path.parent / included, CSRC / included)
            assert any(c.is_file() for c in candidates), f'"{included}" is not a project header'
    text = path.read_text()
    for word in ("__CUDACC__", "__CUDA_ARCH__", "<<<", "asm(", "asm volatile", "__shared__"):
        assert word not in text, f"{word} belongs in launch.cuh"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_the_binding_knows_python_and_nothing_knows_torch(path: Path) -> None:
    """Fails if the module would link libtorch, or if a kernel needs Python headers to compile."""
    for _, included in includes(path):
        assert not re.match(r"(torch|ATen|c10)(/|$)", included), included
        if path not in BINDING:
            assert not re.match(r"(Python\.h|pybind11/)", included), included
