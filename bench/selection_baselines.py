"""What the authors' and the frameworks' code does with its tokens, as plain PyTorch, in our words.

Each selector returns a mask of the selected tokens, which theirs write into a loss in other ways.
Two kindnesses: masks are bool where theirs are numbers, and all is flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.baselines import log_softmax_statistics

__all__ = [
    "Cost",
    "Tokens",
    "clip_cov",
    "cost_of",
    "covariance",
    "entropy_change",
    "kl_cov",
    "policy",
    "policy_stats",
    "steer_weights",
    "top_entropy",
    "top_entropy_quantile",
]

CLIP_FRACTION = 2e-4
KL_FRACTION = 2e-3
TOP_FRACTION = 0.2
BOUNDS = (1.0, 5.0)
CLIP = 0.2
LAMBDA_MIN, FLOOR = 0.8, 0.02


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch, [N] each; `cov` and `clipped` are what selectors are given."""

    logp: Tensor
    old_logp: Tensor
    entropy: Tensor
    collision: Tensor
    collision_logp: Tensor
    advantages: Tensor
    mask: Tensor
    cov: Tensor
    clipped: Tensor
    logits: Tensor | None = None
    """[N, V]"""
    tokens: Tensor | None = None


def covariance(x: Tokens) -> Tensor:
    """verl's, from two masked means."""

    def centred(values: Tensor) -> Tensor:
        return values - (values * x.mask).sum() / x.mask.sum()

    return centred(x.logp) * centred(x.advantages)


def clip_cov(x: Tokens) -> Tensor:
    """verl's: −∞ off the candidates, a list of those inside the bounds, a random part of it."""
    cov = x.cov.clone()
    cov[~x.mask] = -torch.inf
    cov[x.clipped] = -torch.inf
    count = max(int(CLIP_FRACTION * x.mask.sum().item()), 1)
    candidates = torch.nonzero((cov > BOUNDS[0]) & (cov < BOUNDS[1]) & x.mask).squeeze(-1)
    selected = torch.zeros_like(x.mask)
    if len(candidates) > 0:
        order = torch.randperm(len(candidates))
        selected[candidates[order[: min(count, len(candidates))].to(cov.device)]] = True
    return selected


def kl_cov(x: Tokens) -> Tensor:
    """verl's: the valid tokens go to the CPU, topk there."""
    positions = torch.nonzero(x.mask).squeeze(-1)
    cov = to_host(x.cov[x.mask])
    largest = torch.topk(cov, max(1, int(len(cov) * KL_FRACTION))).indices
    selected = torch.zeros_like(x.mask)
    selected[positions[largest.to(positions.device)]] = True
    return selected


def top_entropy(x: Tokens) -> Tensor:
    """The 80/20 paper's code: topk over the valid tokens."""
    positions = torch.nonzero(x.mask).squeeze(-1)
    entropy = x.entropy[x.mask]
    largest = torch.topk(entropy, max(1, int(len(entropy) * TOP_FRACTION + 0.9999))).indices
    selected = torch.zeros_like(x.mask)
    selected[positions[largest]] = True
    return selected


def top_entropy_quantile(x: Tokens) -> Tensor:
    """TRL's, on one rank. torch.quantile takes 2^24 numbers at most."""
    threshold = torch.quantile(x.entropy[x.mask].float(), 1.0 - TOP_FRACTION)
    return ((x.entropy * x.mask) >= threshold) & x.mask


def entropy_change(x: Tokens) -> Tensor:
    """The formula of entropy_change, from collision sums; no framework computes it."""
    p = x.logp.exp()
    sensitivity = p * (x.logp + x.entropy)
    return -x.advantages * (sensitivity - (x.collision_logp + x.entropy * x.collision))


def steer_weights(x: Tokens) -> Tensor:
    """STEER's released code with the exponential map."""
    p = x.logp.exp().clamp(1e-8, 1.0 - 1e-8)
    old_p = x.old_logp.exp().clamp(1e-8, 1.0)
    change = x.advantages / old_p * p * (1.0 - p) * (p.log() + x.entropy)
    size = torch.where(torch.isfinite(change), change, 0.0).abs()
    rate = -math.log(LAMBDA_MIN) / max(size[x.mask].max().item(), FLOOR)
    return (-rate * size).exp().clamp(LAMBDA_MIN, 1.0) * x.mask


def policy(x: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance, where the PPO clip binds, Clip-Cov and STEER, one after another."""
    cov = covariance(x)
    ratio = (x.logp - x.old_logp).clamp(-20.0, 20.0).exp()
    unclipped = -x.advantages * ratio
    clipped = (-x.advantages * ratio.clamp(1.0 - CLIP, 1.0 + CLIP) > unclipped) & x.mask
    chosen = clip_cov(replace(x, cov=cov, clipped=clipped))
    return cov, chosen, steer_weights(x)


def policy_stats(x: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """The same from logits."""
    assert x.logits is not None
    assert x.tokens is not None
    logp, entropy = log_softmax_statistics(x.logits, x.tokens)
    return policy(replace(x, logp=logp, entropy=entropy))


# Copies to the host so far; on a CPU they are none, and only counted.
_host_copies = 0


def to_host(x: Tensor) -> Tensor:
    """A copy on the CPU, for which the host waits."""
    global _host_copies
    _host_copies += 1
    return x.cpu()


@dataclass
class Cost:
    """What a formula asks of a GPU besides time: counted on any device."""

    launches: int = 0
    """Operators that compute or copy; each is one kernel or more."""
    host_syncs: int = 0
    """Places where the host must wait for a number or a size."""


class _Counter(TorchDispatchMode):
    # Operators whose result, or its size, the host must see.
    SYNCS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        aliases = [
            r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns
        ]
        allocates = name in ("aten::empty", "aten::empty_like", "aten::new_empty")
        boolean = name in ("aten::index", "aten::index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.cost.host_syncs += name in self.SYNCS or boolean
        self.cost.launches += not (all(aliases) or allocates)
        return func(*args, **(kwargs or {}))


@contextmanager
def _counting() -> Iterator[Cost]:
    before = _host_copies
    with _Counter() as counter:
        yield counter.cost
    counter.cost.host_syncs += _host_copies - before
    counter.cost.launches += _host_copies - before


def cost_of(run: Callable[[], object]) -> Cost:
    """Count operators and host synchronisations of one call."""
    with _counting() as cost:
        run()
    return cost
