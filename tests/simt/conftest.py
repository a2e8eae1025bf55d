"""What all tests of the emulated kernels need."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simt import toolchain


@pytest.fixture(autouse=True, scope="session")
def _toolchain_is_there() -> None:
    """The only skip of this folder: no test here can say anything without the CUDA headers."""
    try:
        toolchain.compiler()
        toolchain.cuda_include()
    except toolchain.ToolchainMissing as missing:
        pytest.skip(str(missing))
    toolchain.forget_unused()


@pytest.fixture(autouse=True)
def _one_thread(set_threads: Callable[[int], None]) -> None:
    """The tensors here are small; threads would only wait for each other."""
    set_threads(1)
