"""Information about the build and the device it runs on."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

try:
    import entropy_ext._core as _core
except ModuleNotFoundError as missing:
    # In a clone beside an installed package, Python itself reports only a "circular import".
    raise ImportError(
        f"entropy_ext was imported from {Path(__file__).parent}, where nothing is compiled for "
        "this Python. In a clone use the .venv that `make build` creates, or `pip install "
        "--editable .`; to use an installed entropy_ext, start Python in another directory"
    ) from missing

__all__ = ["backend_info"]


def backend_info() -> dict[str, Any]:
    """Versions, the CPU instruction set in use, and whether CUDA was built and is usable.

    Returns:
        version, torch: str.
        cpu_isa: x86-64 level "v2", "v3" or "v4", else "baseline"; ENTROPY_EXT_ISA forces one.
        cuda_built: bool; cuda_architectures: list of str, empty without CUDA.
        cuda_usable: bool, True if this build and torch support CUDA and a device is present.
    """
    architectures = _core.cuda_architectures
    return {
        "version": version("entropy_ext"),
        "torch": torch.__version__,
        "cpu_isa": _core.isa,
        "cuda_built": architectures is not None,
        "cuda_architectures": architectures.split(",") if architectures else [],
        "cuda_usable": architectures is not None and torch.cuda.is_available(),
    }
