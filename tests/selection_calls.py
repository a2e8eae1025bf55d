"""Every token function at once, for what must hold of all of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from entropy_ext import (
    CovarianceMoments,
    PolicyStats,
    TokenStats,
    clip_cov,
    covariance,
    entropy_change,
    kl_cov,
    policy_stats,
    steer_weights,
    top_entropy,
)
from tests.selection import Batch, draw_batch
from tests.truth import same_bits

Seed = int | Tensor


def valid_batch(device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """[4, 9] tokens, NaN off the mask."""
    return draw_batch("torch", (4, 9), dtype, device)


def everything(b: Batch, seed: Seed) -> tuple[Tensor, ...]:
    """Every public function but policy_stats, all their arguments given."""
    moments = CovarianceMoments()
    moments.update(b.logp, b.advantages, b.mask)
    cov = covariance(b.logp, b.advantages, b.mask, moments=moments)
    clipped = cov > 2
    stats = TokenStats(
        b.logp, b.entropy, b.logp, collision=b.collision, collision_logp=b.collision_logp
    )
    change = entropy_change(stats, b.advantages, ratio=(b.logp - b.old_logp).exp())
    ours = (b.logp, b.old_logp, b.entropy, b.advantages, b.mask)
    extras = {"collision": b.collision, "collision_logp": b.collision_logp}
    return (
        cov,
        clip_cov(
            cov,
            b.mask,
            fraction=0.2,
            bounds=(-1.0, math.inf),
            clipped=clipped,
            seed=seed,
            token_ids=b.token_ids,
        ),
        kl_cov(cov, b.mask, fraction=0.3, token_ids=b.token_ids),
        top_entropy(b.entropy, b.mask, token_ids=b.token_ids),
        top_entropy(b.entropy, b.mask, rule="quantile"),
        change,
        steer_weights(*ours),
        steer_weights(*ours, form="own_logit", weight_map="linear", lambda_max=1.2),
        steer_weights(*ours, form="exact", weight_scale=change.abs().nan_to_num().amax(), **extras),
        moments.count,
        moments.covariance,
    )


def same(a: Tensor, b: Tensor) -> bool:
    return same_bits(a, b) if a.is_floating_point() else torch.equal(a, b)


def all_of_policy_stats(
    logits: Tensor, tokens: Tensor, b: Batch, seed: Seed, form: str
) -> PolicyStats:
    return policy_stats(
        logits,
        tokens,
        b.advantages,
        b.mask,
        old_logp=b.old_logp,
        fraction=0.2,
        bounds=(-1.0, math.inf),
        seed=seed,
        token_ids=b.token_ids,
        steer_form=form,  # type: ignore[arg-type]
    )


class ReadsOf(TorchDispatchMode):
    """Operators called with a tensor of at least so many elements."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.calls: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tensors = [x for x in args if isinstance(x, Tensor) and x.numel() >= self.elements]
        if tensors and "detach" not in str(func):
            self.calls.append(str(func))
        return func(*args, **(kwargs or {}))
