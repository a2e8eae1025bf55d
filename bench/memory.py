"""Peak extra memory of one call."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["peak_extra_bytes"]

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak_extra_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """How far memory rose above where it stood before the call, at its highest.

    CUDA: what the caching allocator handed out. CPU: resident pages of the whole process, so that
    memory which C++ takes without torch counts too; the high-water mark is reset first and freed
    heap is given back to the system, else an allocation from it would look free. Resolution: a few
    hundred kilobytes, for the kernel counts pages per thread in batches. None where the counter is
    missing (other than Linux) or may not be reset (some containers).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)
    before = status_bytes("VmRSS")
    try:
        RESET.write_text(RESET_PEAK)
    except OSError:
        return None
    run()
    return max(0, status_bytes("VmHWM") - before)


def status_bytes(key: str) -> int:
    """A size from /proc/self/status, which gives kilobytes."""
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{STATUS}: no {key}")
