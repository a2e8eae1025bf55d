"""Cases for the emulated kernels: what goes into driver.cpp and what comes out of it."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tests.truth import DIFFERENTIABLE, EXTRAS, stats_dtype

DTYPE_CODE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
MAX_LEADING_DIMS = 8
# So few that no row of the tests is shared, and so many that every row long enough is.
ONE_MULTIPROCESSOR, MANY_MULTIPROCESSORS = 1, 1000

# What the support kernels write of a row, in this order.
SUPPORT = ("support_logp", "support_entropy", "support_max", "support_sum", "support_gap")

# What memory holds before it is written (guarded.h): a NaN that arithmetic passes on unchanged.
POISON = b"\xfd\xff"


class KernelError(Exception):
    """The emulation refused to go on, a sanitizer stopped the program, or it did not end."""


@dataclass(frozen=True)
class Case:
    """One forward pass and, with `upstream`, one backward pass."""

    logits: Tensor  # [rows, vocab], a view of its storage with a contiguous last dimension
    tokens: Tensor  # [rows] int64
    temperature: Tensor  # [rows] or []
    mask: Tensor | None = None  # [rows] bool
    extras: bool = False
    upstream: tuple[Tensor, Tensor, Tensor] | None = None  # of logp, entropy, lse, each [rows]
    inplace: bool = False  # the gradient overwrites the logits, which have no gaps between rows
    multiprocessors: int = ONE_MULTIPROCESSOR
    seed: int = 1
    ulps: int = 0
    layout: tuple[Sequence[int], Sequence[int]] | None = None  # sizes, strides; default: [rows]
    withheld: int = 0  # elements at the end of the storage that the kernels may not touch
    row_distance: int = 0  # place rows, here contiguous, so many elements apart
    support: tuple[Tensor, Tensor] | None = None  # offsets [rows + 1] int64, ids [kept] int32
    upstream_support: tuple[Tensor, Tensor] | None = None  # of its logp and entropy, each [rows]

    def encode(self) -> bytes:
        logits = self.logits
        rows, vocab = logits.shape
        sizes, strides = self.layout or ([rows], [self.row_distance or logits.stride(0)])
        padding = [0] * (MAX_LEADING_DIMS - len(sizes))
        storage = torch.empty(0, dtype=logits.dtype).set_(logits.untyped_storage())
        storage = storage[logits.storage_offset() : storage.numel() - self.withheld]
        header = (
            *(DTYPE_CODE[logits.dtype], rows, vocab, len(sizes)),
            *(*sizes, *padding, *strides, *padding),
            *(storage.numel(), logits.storage_offset(), self.temperature.numel()),
            *(self.mask is not None, self.extras, self.upstream is not None, self.inplace),
            *(self.multiprocessors, self.seed, self.ulps, self.row_distance),
            *(self.support is not None, 0 if self.support is None else len(self.support[1])),
        )
        real = stats_dtype(logits.dtype)
        arrays = [storage, self.tokens, self.temperature.to(real)]
        arrays += [] if self.mask is None else [self.mask]
        arrays += [] if self.upstream is None else [g.to(real) for g in self.upstream]
        arrays += [] if self.support is None else self.support
        if self.support is not None and self.upstream is not None:
            unread = torch.full((len(SUPPORT) - 2, rows), torch.nan)
            arrays += [g.to(real) for g in (*self.upstream_support, unread)]
        return struct.pack(f"<{len(header)}q", *header) + b"".join(map(to_bytes, arrays))

    def decode(self, answer: Answer) -> dict[str, Tensor]:
        answer.raise_error()
        rows, vocab = self.logits.shape
        real = stats_dtype(self.logits.dtype)
        names = [*DIFFERENTIABLE, "row_max", "row_sum", *(EXTRAS if self.extras else ())]
        results = {name: answer.tensor(real, (rows,), name) for name in names}
        for name in SUPPORT if self.support is not None else ():
            results[name] = answer.tensor(real, (rows,), name)
        if self.upstream is not None:
            results["grad_logits"] = answer.tensor(self.logits.dtype, (rows, vocab), "grad_logits")
        return results


class Answer:
    """What a driver wrote, taken piece by piece."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        if len(piece) < count:
            raise KernelError("the program ended before its answer did")
        return piece

    def raise_error(self) -> None:
        """What comes first: an error, of no length where there was none."""
        (length,) = struct.unpack("<q", self.take(8))
        if length:
            raise KernelError(self.take(length).decode())

    def tensor(self, dtype: torch.dtype, shape: tuple[int, ...], name: str) -> Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        piece = bytearray(self.take(size))
        bits = np.frombuffer(piece, dtype=f"<u{dtype.itemsize}")
        unwritten = bits == np.frombuffer(POISON * 4, dtype=bits.dtype)[0]
        if unwritten.any():
            raise KernelError(
                f"{name}: entry {int(unwritten.argmax())} was not written, or with what was not"
            )
        return torch.frombuffer(piece, dtype=dtype).reshape(shape)


def to_bytes(x: Tensor) -> bytes:
    return x.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


class EmulatedCase(Protocol):
    def encode(self) -> bytes: ...

    def decode(self, answer: Answer) -> dict[str, Tensor]: ...


def run_cases(
    program: Path, cases: Iterable[EmulatedCase], *, timeout: float = 120
) -> list[dict[str, Tensor]]:
    """name → tensor for each case. Raises KernelError for whatever went wrong first."""
    cases = list(cases)
    try:
        result = subprocess.run(
            [program],
            input=b"".join(case.encode() for case in cases),
            capture_output=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as late:
        raise KernelError(f"no answer within {timeout} s") from late
    if result.returncode != 0 or result.stderr:
        report = result.stderr.decode(errors="replace")[:4000]
        raise KernelError(f"exit status {result.returncode}: {report}")
    answer = Answer(result.stdout)
    return [case.decode(answer) for case in cases]
