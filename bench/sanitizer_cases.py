"""A few small calls on CUDA that reach every path of the kernels, for compute-sanitizer.

Run as `compute-sanitizer python -m bench.sanitizer_cases`. The values are tested elsewhere; here a
kernel only has to touch the memory it may, in an order without races.
"""

from __future__ import annotations

from itertools import product

import torch

from bench.candidates import DTYPES
from entropy_ext import token_stats

# One row long enough to be shared by several blocks; many short ones; sizes that are no multiple
# of a 16-byte access; a single column.
SHAPES = ((1, 262144), (3, 50257), (70, 1003), (5, 7), (2, 1))


def main() -> None:
    """Forward with and without extras, and backward, masked, from aligned and odd addresses."""
    for (rows, vocab), dtype, offset, extras in product(
        SHAPES, DTYPES.values(), (0, 1), (False, True)
    ):
        storage = torch.randn(rows * vocab + offset, device="cuda").to(dtype)
        logits = storage[offset:].view(rows, vocab).requires_grad_()
        tokens = torch.arange(rows, device="cuda") % vocab
        mask = torch.arange(rows, device="cuda") % 3 != 1
        stats = token_stats(logits, tokens, temperature=0.7, mask=mask, extras=extras)
        torch.autograd.grad((stats.logp + stats.entropy + stats.lse).sum(), logits)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
