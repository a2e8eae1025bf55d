"""The CPU's gradients take over each other's memory: never while it is in use, and not for good."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from entropy_ext import token_stats

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is kept on Linux only"
)

ROWS, VOCAB = 40, 151936  # 24 MB in float32, above the size from which memory is kept


def gradient(seed: int, rows: int = ROWS, mask: Tensor | None = None) -> Tensor:
    """A gradient of logits with a value everywhere but in masked rows."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(VOCAB, generator=generator)
    logits = row.expand(rows, VOCAB).clone().requires_grad_()
    tokens = torch.arange(rows)
    stats = token_stats(logits, tokens, mask=mask)
    torch.autograd.backward((stats.logp, stats.entropy), (torch.ones(rows), torch.ones(rows)))
    assert logits.grad is not None
    return logits.grad


def test_memory_of_a_released_gradient_is_used_again() -> None:
    """Catches a step that touches fresh memory, which costs a third of its time."""
    first = gradient(0)
    address = first.data_ptr()
    del first
    assert gradient(1).data_ptr() == address


def test_a_gradient_in_use_is_never_overwritten() -> None:
    """Catches memory handed on while a tensor, a view or a NumPy array still looks at it."""
    first = gradient(0)
    copy = first.clone()
    row, array = first[3], first.numpy()
    second = gradient(1)
    assert torch.equal(first, copy)
    del first
    third = gradient(2)
    assert torch.equal(row, copy[3])
    assert torch.equal(torch.from_numpy(array), copy)
    assert len({t.data_ptr() for t in (torch.from_numpy(array), second, third)}) == 3


def test_what_the_memory_held_before_does_not_show() -> None:
    """Catches an entry that the kernel leaves as it found it, in masked rows above all."""
    mask = torch.arange(ROWS) % 3 != 0
    fresh = gradient(1, mask=mask)
    held, address = fresh.clone(), fresh.data_ptr()
    fresh.fill_(torch.nan)
    del fresh
    again = gradient(1, mask=mask)
    assert again.data_ptr() == address
    assert torch.equal(again, held)
    assert not again[~mask].any()


def test_another_size_takes_memory_of_its_own() -> None:
    """Catches a block handed out for more than it holds."""
    small = gradient(0)
    expected = small.clone()
    del small
    large = gradient(0, rows=2 * ROWS)
    assert torch.equal(large[:1], expected[:1])
    del large
    assert torch.equal(gradient(0), expected)


def test_what_is_kept_may_be_taken_back_by_the_system() -> None:
    """Catches released gradients that stay charged to the process when memory is short."""
    grad = gradient(0)
    address, size = grad.data_ptr(), grad.nbytes
    assert lazily_freed(address) == 0
    del grad
    assert lazily_freed(address) >= 0.9 * size


def test_threads_do_not_share_a_gradient() -> None:
    """Catches a race for the kept block: two backward passes writing into the same memory."""
    expected = [gradient(seed).clone() for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for seed, grad in enumerate(pool.map(gradient, range(4))):
                assert torch.equal(grad, expected[seed])


def lazily_freed(address: int) -> int:
    """Bytes of the mapping around an address that the system may take without asking."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("LazyFree:"):
            return int(line.split()[1]) * 1024
    return 0
