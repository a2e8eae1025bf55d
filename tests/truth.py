"""The tolerance rule of the value and gradient tests, and what it compares with.

Truth is reference in float64 on the upcast logits (for float64 logits a closed form in long
double); the baseline is what a user would write in PyTorch at the precision of the kernel. Ours
may be as far from the truth as the baseline is, plus 4 units in the last place (32 in float64).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from entropy_ext import TokenStats, reference, token_stats

DIFFERENTIABLE = ("logp", "entropy", "lse")
# Beyond the error of the baseline, in ulp of max(1, |truth|): 5e-7 in float32, 7e-15 in float64,
# whose kernels have no wider type to finish in.
ULPS = {torch.float32: 4, torch.float64: 32}
EXTRAS = ("collision", "collision_logp", "varentropy", "max_logp")
OUTPUTS = (*DIFFERENTIABLE, *EXTRAS)

# Gradients of logp, entropy and lse, each [N] or absent.
Upstream = tuple[Tensor | None, Tensor | None, Tensor | None]


class Run(NamedTuple):
    """What one implementation made of a case."""

    values: dict[str, Tensor]  # name → [N]
    gradients: list[Tensor]  # one [N, V] for each upstream gradient


def stats_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def run(
    function: Callable[..., TokenStats],
    logits: Tensor,
    tokens: Tensor,
    temperature: float | Tensor,
    upstreams: Sequence[Upstream] = (),
) -> Run:
    """Values of function(…, extras=True), and the gradient of the logits for every upstream."""
    leaf = logits.detach().requires_grad_(bool(upstreams))
    stats = function(leaf, tokens, temperature=temperature, extras=True)
    gradients = []
    for upstream in upstreams:
        used = [(output, g) for output, g in zip(stats[:3], upstream, strict=True) if g is not None]
        outputs, grads = zip(*((o, g.to(o.dtype)) for o, g in used), strict=True)
        gradients.append(torch.autograd.grad(outputs, leaf, grads, retain_graph=True)[0])
    return Run({name: getattr(stats, name).detach() for name in OUTPUTS}, gradients)


def gradient(
    logits: Tensor,
    tokens: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """Of the weighted sum of logp, entropy and lse over all rows, through token_stats."""
    leaf = logits.detach().requires_grad_()
    stats = token_stats(leaf, tokens, temperature=temperature, mask=mask)
    sum(w * x.sum() for w, x in zip(weights, stats[:3], strict=True)).backward()
    assert leaf.grad is not None
    return leaf.grad


def true_run(
    logits: Tensor, tokens: Tensor, temperature: Tensor, upstreams: Sequence[Upstream] = ()
) -> Run:
    if logits.dtype == torch.float64:
        return long_double_run(logits, tokens, temperature, upstreams)
    return run(reference.token_stats, logits.double(), tokens, temperature.double(), upstreams)


def baseline_run(
    logits: Tensor, tokens: Tensor, temperature: Tensor, upstreams: Sequence[Upstream] = ()
) -> Run:
    """PyTorch at the kernel's precision: the usual formulas, or reference where those are NaN.

    Logits near the lowest finite number stand for −inf there: divided by τ < 1 they become it.
    """
    logits = logits.to(stats_dtype(logits.dtype))
    excluded = logits < -1e30
    if excluded.any():
        logits = logits.masked_fill(excluded, -torch.inf)
        return run(reference.token_stats, logits, tokens, temperature, upstreams)
    return run(natural_token_stats, logits, tokens, temperature, upstreams)


def natural_token_stats(
    logits: Tensor, tokens: Tensor, *, temperature: Tensor, extras: bool
) -> TokenStats:
    """logits [N, V], temperature [N]: divide, log_softmax, gather, exp, sum."""
    scaled = logits / temperature[:, None]
    log_p = scaled.log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    return TokenStats(
        log_p.gather(-1, tokens[:, None])[:, 0],
        entropy,
        scaled.logsumexp(-1),
        (p * p).sum(-1),
        (p * p * log_p).sum(-1),
        (p * (log_p + entropy[:, None]).square()).sum(-1),
        log_p.amax(-1),
    )


def long_double_run(
    logits: Tensor, tokens: Tensor, temperature: Tensor, upstreams: Sequence[Upstream] = ()
) -> Run:
    """Closed forms in NumPy's long double (64 bits of significand on x86), −inf left out."""
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        raise RuntimeError("long double is no wider than float64 here: no truth for float64")
    z, tau = _wide(logits), _wide(temperature)[:, None]
    target = tokens.cpu().numpy()[:, None]
    live = z > -np.inf
    row_max = z.max(-1, keepdims=True)
    t = np.where(live, (np.where(live, z, 0) - row_max) / tau, 0)
    e = np.where(live, np.exp(t), 0)
    log_sum = np.log(e.sum(-1, keepdims=True))
    log_p = t - log_sum
    p = e / e.sum(-1, keepdims=True)
    entropy = -(p * log_p).sum(-1, keepdims=True)
    values = {
        "logp": np.where(
            np.take_along_axis(live, target, -1), np.take_along_axis(log_p, target, -1), -np.inf
        ),
        "entropy": entropy,
        "lse": row_max / tau + log_sum,
        "collision": (p * p).sum(-1),
        "collision_logp": (p * p * log_p).sum(-1),
        "varentropy": (p * (log_p + entropy) ** 2).sum(-1),
        "max_logp": -log_sum,
    }
    hit = (np.arange(z.shape[-1]) == target) & live
    gradients = []
    for upstream in upstreams:
        g_logp, g_entropy, g_lse = (
            np.longdouble(0) if g is None else _wide(g)[:, None] for g in upstream
        )
        bracket = g_logp * (hit - p) - g_entropy * p * (log_p + entropy) + g_lse * p
        gradients.append(_narrow(bracket / tau, logits))
    return Run(
        {name: _narrow(value.reshape(-1), logits) for name, value in values.items()}, gradients
    )


def _wide(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy().astype(np.longdouble)


def _narrow(x: np.ndarray, like: Tensor) -> Tensor:
    with np.errstate(over="ignore"):  # beyond float64 is −inf in float64
        return torch.from_numpy(x.astype(np.float64)).to(like.device)


def ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance in `dtype` from |x| to the next larger number; x is float64."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(x)
    spacing = torch.ldexp(torch.full_like(x, info.eps), exponent - 1)
    return spacing.clamp(min=info.smallest_normal * info.eps)


def assert_within_rule(
    what: str,
    ours: Tensor,
    truth: Tensor,
    baseline: Tensor,
    *,
    compute: torch.dtype,
    stored: torch.dtype | None = None,
) -> None:
    """|ours − truth| ≤ max|baseline − truth| + ULPS·ulp(max(1, |truth|)), for every entry.

    `compute` is the dtype whose ulp is meant; a gradient `stored` in half precision may be off by
    half an ulp of that dtype more. Infinities must be where those of the truth are; NaN is refused.
    """
    ours, truth, baseline = ours.double(), truth.double(), baseline.double()
    if ours.shape != truth.shape or baseline.shape != truth.shape:
        raise ValueError(f"{what}: shapes {ours.shape}, {truth.shape}, {baseline.shape} differ")
    if truth.isnan().any() or baseline.isnan().any():
        raise ValueError(f"{what}: truth or baseline is NaN, there is nothing to compare with")
    infinite = truth.isinf()
    assert not ours.isnan().any(), f"{what}: NaN where the truth is finite"
    assert torch.equal(ours.isinf() & (ours.sign() == truth.sign()), infinite), (
        f"{what}: infinities in the wrong places"
    )
    finite = ~infinite
    if not finite.any():
        return
    ours, truth, baseline = ours[finite], truth[finite], baseline[finite]
    allowed = (baseline - truth).abs().max()
    allowed = allowed + ULPS[compute] * ulp(truth.abs().clamp(min=1), compute)
    if stored is not None and stored != compute:
        allowed = allowed + ulp(truth, stored) / 2
    excess = (ours - truth).abs() - allowed
    worst = int(excess.argmax())
    assert excess[worst] <= 0, (
        f"{what}: got {ours[worst]:.9g}, truth {truth[worst]:.9g} (entry {worst} of "
        f"{truth.numel()}): error {(ours - truth).abs()[worst]:.3g}, "
        f"allowed {allowed[worst]:.3g}"
    )


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit: NaN equals NaN, and 0 differs from −0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.contiguous().view(integer), b.contiguous().view(integer))
