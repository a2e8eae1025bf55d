"""The selectors of Clip-Cov, KL-Cov and high-entropy tokens."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import Tensor

from entropy_ext import native_selection, ops_selection
from entropy_ext.inputs_selection import (
    check_bounds,
    check_choice,
    check_fraction,
    check_tensors,
    seed_tensor,
)
from entropy_ext.native_selection import Count, Order

__all__ = ["clip_cov", "kl_cov", "top_entropy"]


def clip_cov(
    cov: Tensor,
    mask: Tensor | None,
    *,
    fraction: float = 2e-4,
    bounds: tuple[float, float] = (1.0, 5.0),
    clipped: Tensor | None = None,
    seed: int | Tensor,
    token_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Clip-Cov's selection: a few random tokens among those with high covariance.

    Selects max(⌊fraction·N⌋, 1) of the valid tokens with low < cov < high that are not clipped,
    uniformly without replacement: those with the smallest keys, where the key is a hash of (seed,
    token id). N counts all valid tokens. If there are fewer candidates, all are selected.

    No gradient flows. "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
    Models" (arXiv 2505.22617, eq. 11); rounding and bounds as in the authors' code.

    Args:
        cov: [...] float32 or float64, from covariance().
        mask: [...] bool, or None: all tokens are valid.
        fraction: in [0, 1], of the valid tokens.
        bounds: (low, high), both strict; an infinite bound excludes no finite value.
        clipped: [...] bool, tokens that the PPO clip already excludes; they are not candidates.
        seed: int or 0-d int64 tensor (which a CUDA graph may change between replays).
        token_ids: [...] int64, unique over all ranks; None: positions in cov. Required with group,
            and whenever the selection must not depend on the order of the tokens.
        group: process group whose ranks select together; all of them must call this function.

    Returns:
        [...] bool, True where selected.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape, device or range; on the CPU
            also NaN in a valid token (on CUDA such a token is not selected), and token_ids that
            repeat if that would select too many (on CUDA all that share the last id are selected).
    """
    check_tensors({"cov": cov}, mask=mask, clipped=clipped, token_ids=token_ids)
    check_fraction(fraction)
    low, high = check_bounds(bounds)
    cov, seed = cov.detach(), seed_tensor(seed, cov.device)
    if group is None:
        selected: Tensor = ops_selection.clip_cov(
            cov, mask, clipped, seed, token_ids, fraction, low, high
        )
        return selected
    _check_ids(token_ids)
    return native_selection.select(
        "cov",
        cov,
        mask,
        token_ids,
        order=Order.RANDOM,
        count=Count.FLOOR,
        fraction=fraction,
        bounds=bounds,
        excluded=clipped,
        seed=seed,
        group=group,
    )


def kl_cov(
    cov: Tensor,
    mask: Tensor | None,
    *,
    fraction: float = 2e-3,
    token_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """KL-Cov's selection: the tokens with the highest covariance.

    Selects the max(⌊fraction·N⌋, 1) valid tokens with the greatest cov, whatever its sign; ties are
    broken in ascending order of token id.

    No gradient flows. "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
    Models" (arXiv 2505.22617, eq. 13); rounding as in the authors' code.

    Args:
        cov: [...] float32 or float64, from covariance().
        mask: [...] bool, or None: all tokens are valid.
        fraction: in [0, 1], of the valid tokens.
        token_ids: [...] int64, unique over all ranks; None: positions in cov. Required with group,
            and whenever the choice among ties must not depend on the order of the tokens.
        group: process group whose ranks select together; all of them must call this function.

    Returns:
        [...] bool, True where selected.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape, device or range; on the CPU
            also NaN in a valid token (on CUDA such a token is not selected), and token_ids that
            repeat if that would select too many (on CUDA all that share the last id are selected).
    """
    check_tensors({"cov": cov}, mask=mask, token_ids=token_ids)
    check_fraction(fraction)
    cov = cov.detach()
    if group is None:
        selected: Tensor = ops_selection.kl_cov(cov, mask, token_ids, fraction)
        return selected
    _check_ids(token_ids)
    return native_selection.select(
        "cov", cov, mask, token_ids, count=Count.FLOOR, fraction=fraction, group=group
    )


def top_entropy(
    entropy: Tensor,
    mask: Tensor | None,
    *,
    fraction: float = 0.2,
    rule: Literal["exact", "quantile"] = "exact",
    token_ids: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The tokens with the highest entropy.

    The rule "exact" follows the authors' code: it selects the max(⌊fraction·N + 0.9999⌋, 1) valid
    tokens with the greatest entropy; ties are broken in ascending order of token id. "quantile"
    follows TRL's top_entropy_quantile: it selects every token whose entropy is at least the
    (1 − fraction)-quantile, interpolated linearly, so ties are all selected.

    No gradient flows. "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective
    Reinforcement Learning for LLM Reasoning" (arXiv 2506.01939, eq. 5).

    Args:
        entropy: [...] float32 or float64, nats.
        mask: [...] bool, or None: all tokens are valid.
        fraction: in [0, 1], of the valid tokens, to be kept.
        rule: "exact" or "quantile".
        token_ids: [...] int64, unique over all ranks; None: positions. Required with group, and
            whenever the choice among ties must not depend on the order of the tokens.
        group: process group whose ranks select together; all of them must call this function.

    Returns:
        [...] bool, True where selected.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape, device or range; on the CPU
            also NaN in a valid token (on CUDA such a token is not selected), and token_ids that
            repeat if that would select too many (on CUDA all that share the last id are selected).
    """
    check_tensors({"entropy": entropy}, mask=mask, token_ids=token_ids)
    check_fraction(fraction)
    check_choice("rule", rule, ("exact", "quantile"))
    entropy = entropy.detach()
    if group is None:
        selected: Tensor = ops_selection.top_entropy(entropy, mask, token_ids, fraction, rule)
        return selected
    _check_ids(token_ids)
    count = Count.CEIL if rule == "exact" else Count.QUANTILE
    return native_selection.select(
        "entropy", entropy, mask, token_ids, count=count, fraction=fraction, group=group
    )


def _check_ids(token_ids: Tensor | None) -> None:
    if token_ids is None:
        raise ValueError("token_ids: expected ids that are unique over the group, got None")
