"""The compiled module and the wheel: what they link, what they hold, what they say without CUDA."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import entropy_ext
from entropy_ext import _core

ROOT = Path(__file__).parent.parent


def run_beside(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `folder` in front of all others and as its first argument.

    Neither the working folder nor the editable install may stand in for it: -S keeps the hooks of
    site-packages away, whose folder is then named after this one.
    """
    path = os.pathsep.join([str(folder), *[p for p in sys.path if p.endswith("site-packages")]])
    return subprocess.run(
        [sys.executable, "-S", "-c", program, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the sources, built without CUDA and with warnings as errors."""
    source = tmp_path_factory.mktemp("source") / "entropy_ext"
    names = ("csrc", "entropy_ext", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)
        else:
            shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    for define in ("ENTROPY_CUDA=OFF", "ENTROPY_WARNINGS_AS_ERRORS=ON"):
        command += [f"--config-settings=cmake.define.{define}"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(out), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Catches sources, simulator or tests in the wheel, and a missing stub or marker of typing."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"entropy_ext/__init__.py", "entropy_ext/_core.pyi", "entropy_ext/py.typed"} <= names
    assert len([n for n in names if re.fullmatch(r"entropy_ext/_core\..*\.so", n)]) == 1
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"entropy_ext"}


def test_wheel_without_cuda_runs_on_the_cpu(wheel: Path, tmp_path: Path) -> None:
    """Catches a build that needs the source tree, or that hides why CUDA is not there."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = """
import sys, torch, entropy_ext
from entropy_ext import _core
assert entropy_ext.__file__.startswith(sys.argv[1]) and _core.__file__.startswith(sys.argv[1])
assert entropy_ext.backend_info()["cuda_built"] is False
stats = entropy_ext.token_stats(torch.zeros(2, 4), torch.tensor([1, 3]))
assert torch.allclose(stats.entropy, torch.full((2,), 4.0).log())
try:
    _core.forward_scratch_bytes(dtype=0, rows=1, vocab=8, device=0)
except RuntimeError as error:
    print(error)
"""
    done = run_beside(tmp_path, program)
    assert done.returncode == 0, done.stderr
    assert "built without CUDA" in done.stdout


def test_sources_without_the_module_say_how_to_build_it(tmp_path: Path) -> None:
    """Catches Python's own "circular import", which is what a clone beside an install runs into."""
    sources = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "entropy_ext", tmp_path / "entropy_ext", ignore=sources)
    done = run_beside(tmp_path, "import entropy_ext")
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"ImportError: entropy_ext was imported from {tmp_path}")
    assert "make build" in error


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_module_links_neither_torch_nor_cuda() -> None:
    """Catches a dependency that ties the build to one torch version, or to a driver."""
    listing = subprocess.run(
        ["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", listing)
    assert any(name.startswith("libstdc++") for name in needed)
    assert not [name for name in needed if re.search("torch|c10|cuda|python", name)]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_cuda_is_built_where_nvcc_is_and_loads_without_a_driver() -> None:
    """Catches CUDA kernels that are silently left out of the build that CI makes."""
    info = entropy_ext.backend_info()
    assert info["cuda_built"] is True
    assert info["cuda_architectures"] == ["80-real", "90-real", "100"]
    assert info["cuda_usable"] is torch.cuda.is_available()


def test_version_is_that_of_the_project() -> None:
    """Catches a version written in two places of which one was forgotten."""
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert entropy_ext.__version__ == stated[1] == entropy_ext.backend_info()["version"]


def test_module_refuses_wrong_calls() -> None:
    """Catches a binding that takes positional or missing arguments and reads a wild address."""
    with pytest.raises(TypeError):
        _core.token_stats_forward(0)  # type: ignore[call-arg, misc]
    with pytest.raises(ValueError, match="sizes and strides"):
        _core.token_stats_backward(
            dtype=0, logits=0, sizes=[1] * 9, strides=[1] * 9, rows=1, vocab=1, tokens=0,
            temperature=0, temperature_stride=0, mask=0, entropy=0, row_max=0, row_sum=0,
            grad_logp=0, grad_entropy=0, grad_lse=0, grad_logits=0, threads=1, cuda=False, stream=0,
        )  # fmt: skip
