"""When to draw a prompt and how strongly to learn from it, by semantic entropy. No gradient."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_bound, check_choice, check_tensor

__all__ = ["UncertaintyShape", "semantic_stages", "uncertainty_weight"]

UncertaintyShape = Literal["inverse", "linear", "exponential", "focal"]


@torch.no_grad()
def uncertainty_weight(
    entropy: Tensor,
    *,
    max_entropy: float,
    alpha: float = 0.0417,
    shape: UncertaintyShape = "inverse",
    gamma: float = 2.0,
) -> Tensor:
    """A factor on a prompt's advantages that decreases as its answers disagree more.

    With x = α·SE/SE_max:

    - inverse:     1/(1 + x)
    - linear:      max(1 − x, 0)
    - exponential: e⁻ˣ
    - focal:       max(1 − x, 0)^γ

    The factor is 1 where SE = 0 or α = 0. No gradient.

    SEED-GRPO (arXiv 2505.12346): α = 0.0417 and the inverse form are those of its released code,
    according to third parties; at that α no factor falls below 0.96. The paper names a linear, an
    exponential and a focal shape without formulas that could be verified; the ones here are this
    library's.

    Args:
        entropy: [...] floating, SE, nats.
        max_entropy: SE_max, nats, ln of the group size; if 0 (groups of one), the factor is 1.
        alpha: α ≥ 0.
        shape: one of the four above.
        gamma: γ ≥ 0 of the focal shape.

    Returns:
        [...] in [0, 1].

    Raises:
        ValueError, TypeError: a wrong dtype, bound or option.
    """
    check_tensor("entropy", entropy, floating=True)
    check_bound("max_entropy", max_entropy, at_least=0)
    check_bound("alpha", alpha, at_least=0)
    check_bound("gamma", gamma, at_least=0)
    check_choice("shape", shape, get_args(UncertaintyShape))
    x = entropy * (alpha / max_entropy if max_entropy > 0 else 0.0)
    if shape == "inverse":
        return 1 / (1 + x)
    if shape == "exponential":
        return (-x).exp()
    falling = (1 - x).clamp(min=0)
    return falling if shape == "linear" else falling.pow(gamma)


@torch.no_grad()
def semantic_stages(semantic_entropy: Tensor, progress: float, *, stages: int = 2) -> Tensor:
    """Prompts of low semantic entropy first, those of high semantic entropy last.

    In stage s = ⌊progress·S⌋ of S, a prompt has weight 1 if its semantic entropy lies between the
    quantiles s/S and (s + 1)/S of the measured ones, both included, and 0 otherwise. Prompts that
    were never measured have weight 1 in every stage. If all are equal, every stage has all prompts.

    No gradient. "Efficient RL with Semantic and Token Entropy for LLM Reasoning"
    (arXiv 2512.04359) has two stages of 5 epochs each; the released code does not contain the
    split, and splitting in halves is an assumption.

    Args:
        semantic_entropy: [P] floating, nats; NaN where never measured.
        progress: fraction of training done, 0 to 1.
        stages: S ≥ 1.

    Returns:
        [P] float32 of 0 and 1; at least one is 1 if there is a prompt.

    Raises:
        ValueError, TypeError: a wrong shape, dtype or bound.
    """
    check_tensor("semantic_entropy", semantic_entropy, ndim=1, floating=True)
    check_bound("progress", progress, at_least=0, at_most=1)
    check_bound("stages", stages, at_least=1, integer=True)
    if len(semantic_entropy) == 0:
        return torch.ones_like(semantic_entropy, dtype=torch.float32)
    stage = min(int(progress * stages), stages - 1)
    # Quantiles that some prompt has, so that no stage can be empty; torch.nanquantile waits for the
    # device in PyTorch 2.11. NaN is sorted to the end.
    unknown = semantic_entropy.isnan()
    ordered = semantic_entropy.sort().values
    last = (~unknown).sum() - 1
    start, end = (
        ordered.gather(0, (share * last // stages).clamp(min=0)[None])
        for share in (stage, stage + 1)
    )
    within = (semantic_entropy >= start) & (semantic_entropy <= end)
    return (within | unknown).to(torch.float32)
