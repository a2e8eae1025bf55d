"""Programs of the emulation, built once a session."""

from __future__ import annotations

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
