"""Devices, threads and property-test settings for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from entropy_ext import backend_info

DEVICES_VARIABLE = "ENTROPY_EXT_TEST_DEVICES"

# Derandomised, so that a failure is there again on the next run and on the next machine.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("suite")


def _devices() -> list[str]:
    """The CPU always, CUDA where the build and the machine have it, or what the variable names."""
    wanted = os.environ.get(DEVICES_VARIABLE)
    if wanted:
        return wanted.split(",")
    return ["cpu", "cuda"] if backend_info()["cuda_usable"] else ["cpu"]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Where the variable leaves the CPU out, so are files in which no test takes a device.

    What they import may be missing where a GPU is.
    """
    if "cpu" in _devices() or not collection_path.name.startswith("test_"):
        return None
    beside = collection_path.with_name("conftest.py")
    texts = [collection_path, *([beside] if beside != Path(__file__) and beside.exists() else [])]
    used = any("device: torch.device" in path.read_text() for path in texts)
    return None if used and collection_path.name != "test_catalogue.py" else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where the variable leaves the CPU out, so are the tests that use no device."""
    if "cpu" in _devices():
        return
    without = [item for item in items if "device" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "isa: also run under every CPU instruction set, by tests/test_isa.py"
    )


def pytest_report_header() -> str:
    info = backend_info()
    cuda = ", ".join(info["cuda_architectures"]) if info["cuda_built"] else "not built"
    return (
        f"entropy_ext {info['version']}: devices {', '.join(_devices())}; "
        f"CPU instruction set {info['cpu_isa']}; CUDA {cuda}; torch {info['torch']}"
    )


@pytest.fixture(params=_devices(), scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Hundreds of short parallel regions crawl where the cores are shared with other work.

    Nothing is lost by it: the bits are those of any number of threads, which has its own test.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
