"""How tensors with one number per token are passed to the compiled module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["addresses", "contiguous", "of_tokens", "place_of", "thread_count"]


def contiguous(*tensors: Tensor | None) -> Any:
    """The tensors, copied if not contiguous. Keep them alive until the kernels have run."""
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def addresses(**tensors: Tensor | None) -> dict[str, Any]:
    """name → address, 0 for None."""
    return {name: 0 if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}


def of_tokens(tokens: Tensor) -> dict[str, Any]:
    """Dtype, number and device of the tokens."""
    return {
        "dtype": 0 if tokens.dtype == torch.float32 else 1,
        "count": tokens.numel(),
        **place_of(tokens),
    }


def place_of(tensor: Tensor) -> dict[str, Any]:
    """Whether the tensor is on CUDA, and the stream to use."""
    stream = torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0
    return {"cuda": tensor.is_cuda, "stream": stream}


def thread_count() -> dict[str, Any]:
    """How many threads a CPU kernel may use."""
    return {"threads": torch.get_num_threads()}
