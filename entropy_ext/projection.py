"""The language-model head applied to chunks of tokens, with a single buffer of logits.

torch computes the matrix products; this file manages the memory, so that no more than one chunk of
logits exists at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from entropy_ext.inputs import STATS_DTYPE, check_whole, dtype_name, is_dtensor

__all__ = ["Gradients", "Projection", "check_projection", "chunk_rows", "flatten_rows", "rows_of"]

# Bytes of one chunk of logits. On CUDA, smaller chunks would update the weight's gradient too
# often.
_CHUNK_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}
_ROUND = 128
# Rows of the weight whose half-precision gradient is formed at a time, to be added in float32.
_WEIGHT_ROWS = 2048


def check_projection(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *, at_least: int = 1
) -> None:
    """Raise TypeError or ValueError, naming the argument, unless dtypes, shapes and devices fit.

    Args:
        at_least: the smallest V allowed.
    """
    for name, value in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and not (name == "bias" and value is None):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if value is not None and is_dtensor(value):
            raise TypeError(
                f"{name}: expected a plain tensor, got a DTensor with placements "
                f"{value.placements}; under FSDP, call this in the forward pass of the module "
                "that holds it, where it is unsharded"
            )
    if hidden.dtype not in STATS_DTYPE:
        raise TypeError(
            "hidden: expected float32, float64, bfloat16 or float16, "
            f"got {dtype_name(hidden.dtype)}"
        )
    if hidden.ndim < 1 or hidden.shape[-1] == 0:
        raise ValueError(f"hidden: expected shape [..., D] with D ≥ 1, got {list(hidden.shape)}")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or weight.shape[0] < at_least:
        raise ValueError(
            f"weight: expected shape [V, {hidden.shape[-1]}] with V ≥ {at_least}, as hidden "
            f"[..., D] says, got {list(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape [{weight.shape[0]}], got {list(bias.shape)}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.dtype != hidden.dtype:
            expected, got = dtype_name(hidden.dtype), dtype_name(value.dtype)
            raise TypeError(f"{name}: expected hidden's {expected}, got {got}; cast one of them")
        if value is not None and value.device != hidden.device:
            raise ValueError(f"{name}: expected device {hidden.device}, got {value.device}")


def chunk_rows(hidden: Tensor, vocab: int, chunk_tokens: int | None, align: int = 1) -> int:
    """Tokens per chunk: as requested, or as many as the memory limit for logits allows.

    Args:
        hidden: has the device and dtype of the logits.
        vocab: V.
        chunk_tokens: upper bound, or None.
        align: chunks hold a multiple of this number of tokens.

    Raises:
        TypeError, ValueError: not an integer, align below 1, or chunk_tokens below align.
    """
    check_whole("align", align, at_least=1)
    if chunk_tokens is None:
        room = _CHUNK_BYTES["cuda" if hidden.is_cuda else "cpu"] // (
            max(vocab, 1) * hidden.itemsize
        )
        chunk_tokens = max(room // _ROUND * _ROUND, _ROUND, align)
    check_whole("chunk_tokens", chunk_tokens, at_least=align)
    return chunk_tokens // align * align


def flatten_rows(
    hidden: Tensor, tokens: Tensor, temperature: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """hidden [N, D], tokens [N], temperature 0-d or [N] and mask [N]."""
    return (
        hidden.reshape(-1, hidden.shape[-1]),
        tokens.reshape(-1),
        temperature if temperature.ndim == 0 else temperature.reshape(-1),
        None if mask is None else mask.reshape(-1),
    )


def rows_of(
    rows: slice, tokens: Tensor, temperature: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """tokens, temperature and mask of a slice of the flattened rows."""
    return (
        tokens[rows],
        temperature if temperature.ndim == 0 else temperature[rows],
        None if mask is None else mask[rows],
    )


class Projection:
    """logits = hidden·weightᵀ + bias, one chunk at a time; each chunk overwrites the one before."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, chunk: int
    ) -> None:
        self.hidden = hidden
        self.weight = weight
        self.bias = bias
        self.mask = mask
        self.chunk = chunk
        size = (min(chunk, len(hidden)), len(weight))
        self._buffer = torch.empty(size, dtype=hidden.dtype, device=hidden.device)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yields rows, hidden [n, D] with masked rows set to 0, and logits [n, V] to overwrite."""
        for begin in range(0, len(self.hidden), self.chunk):
            rows = slice(begin, min(begin + self.chunk, len(self.hidden)))
            hidden = self.hidden[rows]
            if self.mask is not None:
                # Padding may hold NaN, and 0·NaN would put NaN into the weight's gradient.
                hidden = torch.where(self.mask[rows, None], hidden, 0.0)
            logits = self._buffer[: len(hidden)]
            if self.bias is None:
                torch.mm(hidden, self.weight.T, out=logits)
            else:
                torch.addmm(self.bias, hidden, self.weight.T, out=logits)
            yield rows, hidden, logits


class Gradients:
    """Gradients of hidden, weight and bias, summed over chunks; None for those not requested.

    Sums over several chunks are float32 (float64 for float64 inputs) and are rounded at the end.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        needs: Sequence[bool],
        chunk: int,
    ) -> None:
        rows = hidden.numel() // hidden.shape[-1]
        half = hidden.dtype not in (torch.float32, torch.float64)
        summed = torch.float32 if half and rows > chunk else hidden.dtype
        # Contiguous, so that chunks of the flattened rows are written into it.
        self.hidden = hidden.new_empty(hidden.shape) if needs[0] else None
        self._weight = torch.empty_like(weight, dtype=summed) if needs[1] else None
        self._bias = torch.zeros_like(bias, dtype=summed) if needs[2] and bias is not None else None
        self._matrix = weight
        self._first = True
        if self._weight is not None and rows == 0:
            self._weight.zero_()
        self._product = weight.new_empty(
            (min(_WEIGHT_ROWS, len(weight)) if summed != hidden.dtype else 0, weight.shape[1])
        )

    def add(self, rows: slice, hidden: Tensor, grad_logits: Tensor) -> None:
        """Adds the contribution of a chunk, from the gradient of its logits [n, V]."""
        if self.hidden is not None:
            flat = self.hidden.view(-1, self.hidden.shape[-1])
            torch.mm(grad_logits, self._matrix, out=flat[rows])
        if self._weight is not None:
            self._add_product(self._weight, grad_logits, hidden)
            self._first = False
        if self._bias is not None:
            self._bias += grad_logits.sum(0, dtype=self._bias.dtype)

    def _add_product(self, total: Tensor, grad_logits: Tensor, hidden: Tensor) -> None:
        """total += grad_logitsᵀ·hidden, summed in the dtype of the total."""
        if total.dtype == grad_logits.dtype:
            torch.addmm(total, grad_logits.T, hidden, beta=0 if self._first else 1, out=total)
            return
        # PyTorch cannot add a product of half-precision matrices to a float32 matrix on every
        # device.
        for begin in range(0, len(total), _WEIGHT_ROWS):
            block = slice(begin, min(begin + _WEIGHT_ROWS, len(total)))
            product = self._product[: block.stop - begin]
            torch.mm(grad_logits[:, block].T, hidden, out=product)
            if self._first:
                total[block] = product
            else:
                total[block] += product

    @property
    def weight(self) -> Tensor | None:
        """[V, D], in the dtype of the weight."""
        return None if self._weight is None else self._weight.to(self._matrix.dtype)

    @property
    def bias(self) -> Tensor | None:
        """[V], in the dtype of the bias."""
        return None if self._bias is None else self._bias.to(self._matrix.dtype)
