"""Which build this is and what it runs on."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from entropy_ext import _core

__all__ = ["backend_info"]


def backend_info() -> dict[str, Any]:
    """Versions, the CPU instruction set in use, and whether CUDA was built and can be used.

    Returns:
        version, torch: str.
        cpu_isa: x86-64 level "v2", "v3" or "v4", else "baseline"; ENTROPY_EXT_ISA forces one.
        cuda_built: bool; cuda_architectures: list of str, empty without CUDA.
        cuda_usable: bool, whether the build, torch and a device all have CUDA.
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
