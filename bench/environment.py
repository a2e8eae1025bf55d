"""What a measured number depends on besides the code: machine, versions, commit, date."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from entropy_ext import backend_info

__all__ = ["Environment", "environment"]

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Environment:
    """The columns that every row of one run shares."""

    date: str
    commit: str
    device: str
    threads: int
    isa: str
    """Instruction set of the CPU kernels, also on CUDA rows."""
    torch: str
    compiler: str
    """The C++ compiler on PATH: torch.compile uses it, and a local build of the extension."""
    cuda: str


def environment(device: torch.device) -> Environment:
    """Describe this process and the device it measures."""
    return Environment(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=commit(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        threads=torch.get_num_threads(),
        isa=str(backend_info()["cpu_isa"]),
        torch=torch.__version__,
        compiler=first_line("c++", "--version"),
        cuda=str(torch.version.cuda or ""),
    )


def cpu_model() -> str:
    """The processor's name, from where Linux keeps it if it does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Abbreviated commit, with a `+` where the tree differs from it.

    Outside a clone what ENTROPY_EXT_COMMIT says, for a copy that was taken to another machine.
    """
    head = first_line("git", "rev-parse", "--short", "HEAD")
    if not head:
        return os.environ.get("ENTROPY_EXT_COMMIT", "")
    changed = first_line("git", "status", "--porcelain", "--untracked-files=no")
    return head + "+" if changed else head


def first_line(*command: str) -> str:
    """First line a command prints, empty when it fails or is not installed."""
    try:
        result = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return result.stdout.strip().partition("\n")[0] if result.returncode == 0 else ""
