"""A few small calls on CUDA that reach every path of the kernels, for compute-sanitizer.

Run as `compute-sanitizer python -m bench.sanitizer_cases`. The values are tested elsewhere; here a
kernel only has to touch the memory it may, in an order without races.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from bench.candidates import DTYPES
from entropy_ext import (
    Support,
    TokenStats,
    clip_cov,
    covariance,
    entropy_change,
    kl_cov,
    steer_weights,
    token_stats,
    top_entropy,
)

# One row long enough to be shared by several blocks; many short ones; sizes that are no multiple
# of a 16-byte access; a single column.
SHAPES = ((1, 262144), (3, 50257), (70, 1003), (5, 7), (2, 1))

# Less than a group of tokens, and some tiles with an odd end.
COUNTS = (3, 10001)
# More tiles than a launch has blocks: one case, for under the sanitizer it takes its time.
MANY_TOKENS = 256 * 4096 + 4099


def vocabulary_cases(device: str) -> None:
    """Forward and backward, with extras, with kept ids, masked, from aligned and odd addresses,
    in place."""
    for (rows, vocab), dtype, offset, extras in product(
        SHAPES, DTYPES.values(), (0, 1), (False, True)
    ):
        storage = torch.randn(rows * vocab + offset, device=device).to(dtype)
        logits = storage[offset:].view(rows, vocab).requires_grad_()
        tokens = torch.arange(rows, device=device) % vocab
        mask = torch.arange(rows, device=device) % 3 != 1
        stats = token_stats(logits, tokens, temperature=0.7, mask=mask, extras=extras)
        torch.autograd.grad((stats.logp + stats.entropy + stats.lse).sum(), logits)
        support = Support.from_top_k_top_p(logits, top_k=vocab if extras else 5, mask=mask)
        stats = token_stats(logits, tokens, temperature=0.7, mask=mask, support=support)
        torch.autograd.grad([x.sum() for x in stats[-2:] if x is not None], logits)
        stats = token_stats(logits * 1, tokens, mask=mask, inplace_backward=True)
        torch.autograd.grad((stats.logp + stats.entropy).sum(), logits)


def selection_cases(device: str) -> None:
    """Every selector, by position and by id, among ties; moments, weights, odd addresses."""
    for case in product(COUNTS, (torch.float32, torch.float64), (0, 1), (False, True)):
        select_and_weigh(device, *case)
    select_and_weigh(device, MANY_TOKENS, torch.float32, 1, True)


def select_and_weigh(device: str, count: int, dtype: torch.dtype, offset: int, by_id: bool) -> None:
    """Every operator on tokens once, `offset` elements into the memory of each array."""

    def placed(values: Tensor) -> Tensor:
        return values.new_empty(count + offset)[offset:].copy_(values)

    def drawn() -> Tensor:
        """In eighths, so that many are equal."""
        return placed((torch.rand(count, device=device, dtype=dtype) * 8).round() / 8)

    place = torch.arange(count, device=device)
    stats = TokenStats(placed(-drawn()), drawn(), drawn(), drawn(), placed(-drawn()))
    advantages, mask = placed(drawn() - 0.5), placed(place % 3 != 1)
    ids = placed(place * 2**33) if by_id else None
    cov = placed(covariance(stats.logp, advantages, mask))
    clip_cov(cov, mask, clipped=cov > 2, bounds=(-1.0, 5.0), seed=3, token_ids=ids)
    kl_cov(cov, mask, token_ids=ids)
    for rule in ("exact", "quantile"):
        top_entropy(stats.entropy, mask, rule=rule, token_ids=ids)
    entropy_change(stats, advantages)
    steer_weights(
        *(stats.logp, stats.logp - 0.1, stats.entropy, advantages, mask),
        form="exact",
        collision=stats.collision,
        collision_logp=stats.collision_logp,
    )


def main(device: str = "cuda") -> None:
    vocabulary_cases(device)
    selection_cases(device)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
