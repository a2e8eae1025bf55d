"""Which prompts each stage of a curriculum draws from. No gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_tensor

__all__ = ["semantic_stages"]


@torch.no_grad()
def semantic_stages(semantic_entropy: Tensor, progress: float, *, stages: int = 2) -> Tensor:
    """Prompts of low semantic entropy first, those of high semantic entropy last.

    In stage s = ⌊progress·S⌋ of S a prompt weighs 1 if its semantic entropy lies between the
    quantiles s/S and (s + 1)/S of those measured, both included, else 0. Prompts that were never
    measured weigh 1 in every stage, and where all are equal every stage has them all.

    No gradient. "Efficient RL with Semantic and Token Entropy for LLM Reasoning"
    (arXiv 2512.04359) has two stages of 5 epochs each; the released code does not hold the split,
    and halves are our reading.

    Args:
        semantic_entropy: [P] floating, nats; NaN where never measured.
        progress: share of training done, 0 to 1.
        stages: S ≥ 1.

    Returns:
        [P] float32 of 0 and 1, at least one of them 1 if there is a prompt.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_tensor("semantic_entropy", semantic_entropy, ndim=1, floating=True)
    check_bound("progress", progress, at_least=0, at_most=1)
    check_bound("stages", stages, at_least=1)
    if len(semantic_entropy) == 0:
        return torch.ones_like(semantic_entropy, dtype=torch.float32)
    stage = min(int(progress * stages), stages - 1)
    # "lower" is a value that some prompt has, so that no stage can be empty.
    start, end = (
        torch.nanquantile(semantic_entropy, share / stages, interpolation="lower")
        for share in (stage, stage + 1)
    )
    within = (semantic_entropy >= start) & (semantic_entropy <= end)
    return (within | semantic_entropy.isnan()).to(torch.float32)
