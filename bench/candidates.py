"""What is timed: implementations of (logp, entropy), and the buffers they run on."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.baselines import log_softmax_statistics, trl_statistics, verl_statistics
from bench.timing import Call
from entropy_ext import Support, native, native_support, token_stats
from entropy_ext.inputs import STATS_DTYPE

__all__ = ["DTYPES", "FORWARD_ONLY", "IMPLEMENTATIONS", "Calls", "Shape", "Statistics", "available"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

Statistics = Callable[..., tuple[Tensor, ...]]
"""logits [N, V], tokens [N] → (logp [N], entropy [N]), or (logp [N],); see Calls.arguments."""

KEPT_IDS = 64
"""Ids in each row of the support."""

ROTATED_BYTES = 256 << 20
"""Logits between two uses of the same buffer: past the L2 of every GPU and most CPUs' caches."""
MOST_BUFFERS = 256


@dataclass(frozen=True)
class Shape:
    """Logits [rows, vocab] of a dtype, by its name in DTYPES."""

    rows: int
    vocab: int
    dtype: str

    @property
    def logits_bytes(self) -> int:
        """Size of the logits."""
        return self.rows * self.vocab * DTYPES[self.dtype].itemsize


def ours(logits: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    """token_stats as users call it."""
    return token_stats(logits, tokens)[:2]


def ours_extras(logits: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    """token_stats with all seven outputs."""
    return token_stats(logits, tokens, extras=True)[:2]


def ours_support(logits: Tensor, tokens: Tensor, support: Support) -> tuple[Tensor, ...]:
    """token_stats with the statistics over the kept ids."""
    stats = token_stats(logits, tokens, support=support)
    return *stats[:2], *(x for x in stats[-2:] if x is not None)


def ours_in_cache(logits: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    """token_stats on the first row N times over: as much arithmetic, hardly any memory traffic."""
    return token_stats(logits[:1].expand_as(logits), tokens)[:2]


def compiled() -> Statistics:
    """torch.compile of the eager baseline, specialised to the shape it meets."""
    torch._dynamo.reset()
    return torch.compile(log_softmax_statistics, dynamic=False)


def liger() -> Statistics:
    """Liger's cross-entropy, where installed: the log-probability only.

    Its forward pass writes the gradient over the logits it is given, so it gets a copy, untimed.
    """
    from liger_kernel.transformers.functional import liger_cross_entropy

    return lambda logits, tokens: (-liger_cross_entropy(logits, tokens, reduction="none"),)


def softmax(logits: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    """torch.softmax alone: what a single row has to be as fast as."""
    return (torch.softmax(logits, -1),)


IMPLEMENTATIONS: dict[str, Callable[[], Statistics]] = {
    "ours": lambda: ours,
    "ours+extras": lambda: ours_extras,
    "ours+support": lambda: ours_support,
    "ours-in-cache": lambda: ours_in_cache,
    "eager": lambda: log_softmax_statistics,
    "compile": compiled,
    "trl": lambda: trl_statistics,
    "verl": lambda: verl_statistics,
    "liger": liger,
    "softmax": lambda: softmax,
}

FORWARD_ONLY = ("ours+extras", "ours-in-cache", "softmax")
"""The extras carry no gradient; one row's gradient would be a sum over rows; probabilities are
neither of the two results."""


def available(device: torch.device) -> list[str]:
    """The implementations that run here; Liger needs CUDA and is used only where installed."""
    has_liger = device.type == "cuda" and importlib.util.find_spec("liger_kernel") is not None
    return [name for name in IMPLEMENTATIONS if name != "liger" or has_liger]


class Problem:
    """One set of buffers of a shape."""

    def __init__(self, shape: Shape, device: torch.device, generator: torch.Generator) -> None:
        rows, vocab, dtype = shape.rows, shape.vocab, DTYPES[shape.dtype]

        def normal(size: int) -> Tensor:
            return torch.randn(size, generator=generator, device=device)

        # Spread about as a language model's logits are. Rows are windows of one draw, which takes
        # a thousandth of the time of drawing each.
        self.logits = (3 * normal(vocab + rows)).to(dtype).unfold(0, vocab, 1)[:rows].contiguous()
        self.tokens = torch.randint(vocab, (rows,), generator=generator, device=device)
        self.grad_logp, self.grad_entropy = normal(rows), normal(rows)
        self.grad_support = normal(2 * rows).view(2, rows)
        # Memory that has been touched: where the copy and the bare backward kernel write.
        self.warm = self.logits.clone()
        # A sum of the same bytes as float32 runs at the speed of memory for every dtype; whatever
        # numbers the bits spell, an addition takes equally long.
        floats = self.logits.nbytes // 4
        self.as_floats = self.logits.view(torch.uint8).flatten()[: 4 * floats].view(torch.float32)

    @cached_property
    def support(self) -> Support:
        """The likeliest ids of each row."""
        rows, vocab = self.logits.shape
        kept = min(KEPT_IDS, vocab)
        ids = self.logits.topk(kept).indices.sort(-1).values.int().flatten()
        return Support(torch.arange(rows + 1, device=ids.device) * kept, ids)

    def upstream(self, outputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Upstream gradients of the first outputs of our four, in their dtypes."""
        grads = (self.grad_logp, self.grad_entropy, *self.grad_support)[: len(outputs)]
        return [grad.to(out.dtype) for grad, out in zip(grads, outputs, strict=True)]


class Calls:
    """The functions to time on one shape."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.device = device
        count = min(MOST_BUFFERS, math.ceil(ROTATED_BYTES / shape.logits_bytes))
        generator = torch.Generator(device).manual_seed(0)
        self.problems = [Problem(shape, device, generator) for _ in range(count)]

    def at(self, turn: int) -> Problem:
        """The buffers of this turn."""
        return self.problems[turn % len(self.problems)]

    def read(self) -> Call:
        """A pure read of the logits."""
        return Call(lambda turn: self.at(turn).as_floats.sum())

    def copy(self) -> Call:
        """A copy of the logits into warm memory."""
        return Call(lambda turn: self.at(turn).warm.copy_(self.at(turn).logits))

    def forward(self, name: str) -> Call:
        """Values only, no gradient recorded."""
        statistics = IMPLEMENTATIONS[name]()

        def run(turn: int) -> object:
            with torch.no_grad():
                return statistics(*self.arguments(name, turn))

        return Call(run, self.preparation(name))

    def forward_backward(self, name: str) -> Call:
        """Values, then through autograd the gradient of the logits, in fresh memory.

        On a CPU an untimed step comes first, so that the memory a step gets is what its own last
        step gave back, as in a training loop, and not what another candidate did: after one that
        frees gigabytes the first touch of fresh pages can cost several times as much.
        """
        statistics = IMPLEMENTATIONS[name]()

        def run(turn: int) -> object:
            logits, *others = self.arguments(name, turn)
            leaf = logits.detach().requires_grad_()
            outputs = statistics(leaf, *others)
            torch.autograd.backward(outputs, self.at(turn).upstream(outputs))
            return leaf.grad

        return Call(run, self.preparation(name), settle=self.device.type == "cpu")

    def backward(self, name: str) -> Call:
        """Our backward kernel alone, into warm memory: what its arithmetic costs over a copy."""
        with_support = name == "ours+support"
        saved = []
        for problem in self.problems:
            dtype = STATS_DTYPE[problem.logits.dtype]
            temperature = torch.ones((), dtype=dtype, device=problem.logits.device)
            inputs = (problem.logits, problem.tokens, temperature, None)
            _, entropy, lse, row_max, row_sum, _ = native.token_stats_forward(*inputs, False)
            grads = (problem.grad_logp.to(dtype), problem.grad_entropy.to(dtype))
            rows = (*inputs, entropy, row_max, row_sum, *grads, torch.zeros_like(lse))
            kept: tuple[Tensor, ...] = ()
            if with_support:
                csr = (problem.support.offsets, problem.support.ids)
                stats = native_support.support_forward(*inputs, *csr)
                kept = (*csr, stats, torch.zeros_like(stats))
                kept[-1][:2] = problem.grad_support
            saved.append((rows, kept))

        def run(turn: int) -> object:
            rows, kept = saved[turn % len(saved)]
            out = native.token_stats_backward(*rows, out=self.at(turn).warm)
            if with_support:
                native_support.support_backward(*rows, *kept, out=out)
            return out

        return Call(run)

    def arguments(self, name: str, turn: int) -> tuple[Any, ...]:
        """The logits, or their copy for who overwrites them; the tokens; the support if used."""
        problem = self.at(turn)
        logits = problem.warm if name == "liger" else problem.logits
        support = (problem.support,) if name == "ours+support" else ()
        return logits, problem.tokens, *support

    def preparation(self, name: str) -> Callable[[int], None]:
        """Untimed: make what arguments promises."""

        def prepare(turn: int) -> None:
            if name == "liger":
                self.at(turn).warm.copy_(self.at(turn).logits)
            self.arguments(name, turn)

        return prepare
