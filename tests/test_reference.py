"""reference and the long-double truth against mpmath: the oracle has an oracle."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from entropy_ext import reference
from tests import draws
from tests.truth import OUTPUTS, Upstream, long_double_run, run, same_bits

ROWS, VOCAB, DIGITS = 4, 17, 60
KINDS = ("uniform", "randn", "peaked", "one_hot", "masked", "shifted", "flat")


def exact_row(
    z: list[float], token: int, tau: float, upstream: list[float]
) -> tuple[dict[str, float], list[float]]:
    """One row in 60 digits, straight from the definitions: p = softmax(z/τ), 0·ln 0 = 0."""
    with mpmath.workdps(DIGITS):
        weights = [mpmath.exp(mpmath.mpf(x) / tau) if x > -np.inf else mpmath.mpf(0) for x in z]
        total = mpmath.fsum(weights)
        p = [w / total for w in weights]
        log_p = [mpmath.log(x) if x else mpmath.ninf for x in p]
        entropy = -mpmath.fsum(x * y for x, y in zip(p, log_p, strict=True) if x)
        values = {
            "logp": log_p[token],
            "entropy": entropy,
            "lse": mpmath.log(total),
            "collision": mpmath.fsum(x * x for x in p),
            "collision_logp": mpmath.fsum(x * x * y for x, y in zip(p, log_p, strict=True) if x),
            "varentropy": mpmath.fsum(
                x * (y + entropy) ** 2 for x, y in zip(p, log_p, strict=True) if x
            ),
            "max_logp": max(log_p),
        }
        g_logp, g_entropy, g_lse = upstream
        gradient = [
            (
                g_logp * ((i == token) - x) - g_entropy * x * (y + entropy) + g_lse * x
                if x
                else mpmath.mpf(0)
            )
            / tau
            for i, (x, y) in enumerate(zip(p, log_p, strict=True))
        ]
        return {k: float(v) for k, v in values.items()}, [float(x) for x in gradient]


@pytest.mark.parametrize("implementation", ["reference", "long double"])
@pytest.mark.parametrize("kind", KINDS)
def test_against_sixty_digits(kind: str, implementation: str) -> None:
    """Values and gradients, −inf and offset 1e4 included: catches a wrong formula in the oracle."""
    logits = draws.draw_logits(kind, ROWS, VOCAB, torch.float64)
    tokens = draws.draw_tokens(logits)
    temperature = draws.cycled_temperatures(ROWS, torch.float64)
    g = torch.randn(3, ROWS, generator=draws.generator("mpmath"), dtype=torch.float64)
    upstreams: list[Upstream] = [(g[0], g[1], g[2])]
    if implementation == "reference":
        got = run(reference.token_stats, logits, tokens, temperature, upstreams)
    else:
        got = long_double_run(logits, tokens, temperature, upstreams)
    for r in range(ROWS):
        values, gradient = exact_row(
            logits[r].tolist(), int(tokens[r]), temperature[r].item(), g[:, r].tolist()
        )
        # One rounding of (z − max)/τ at 100/0.6 costs 1.4e-14 of a probability.
        for name in OUTPUTS:
            close = pytest.approx(values[name], rel=1e-13, abs=1e-13)
            assert got.values[name][r].item() == close, name
        assert got.gradients[0][r].tolist() == pytest.approx(gradient, rel=1e-13, abs=1e-13)


def test_reference_keeps_the_contract() -> None:
    """Masked rows, −inf rows and NaN rows, forward and backward, of the oracle itself."""
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor(
        [[nan, nan, inf], [-inf, -inf, -inf], [0.0, nan, 1.0], [0.0, inf, 1.0], [-inf, 0.0, 0.0]],
        dtype=torch.float64,
    )
    mask = torch.tensor([False, True, True, True, True])
    tokens = torch.tensor([-100, 0, 0, 0, 0])
    leaf = logits.requires_grad_()
    stats = reference.token_stats(leaf, tokens, temperature=0.5, mask=mask, extras=True)
    (stats.logp + stats.entropy + stats.lse).sum().backward()
    for name in OUTPUTS:
        value = getattr(stats, name).tolist()
        assert value[0] == 0, name
        assert all(np.isnan(value[1:4])), name
    assert stats.logp[4].item() == -inf
    assert stats.entropy[4].item() == pytest.approx(np.log(2), rel=1e-15)
    assert leaf.grad is not None
    assert leaf.grad[0].tolist() == [0, 0, 0]
    assert leaf.grad[1:4].isnan().all()
    # g_logp·(0 − p)/τ + g_lse·p/τ cancel; an even pair has no entropy gradient.
    assert leaf.grad[4].tolist() == pytest.approx([0, 0, 0], abs=1e-15)


def test_reference_at_the_lowest_finite_logits() -> None:
    """finfo.min as a mask and τ < 1: catches (z − max)/τ = −inf and then 0·(−inf) in the oracle."""
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[0.0, torch.finfo(dtype).min, 0.0]], dtype=dtype)
        stats = reference.token_stats(logits, torch.tensor([0]), temperature=0.6, extras=True)
        assert stats.entropy.item() == pytest.approx(np.log(2), rel=1e-6)
        assert stats.varentropy is not None
        assert stats.varentropy.item() == pytest.approx(0, abs=1e-12)


def test_half_precision_is_computed_in_float32() -> None:
    """The reference on bfloat16 is the reference on the upcast, bit for bit."""
    for dtype in (torch.bfloat16, torch.float16):
        logits = draws.draw_logits("peaked", ROWS, VOCAB, dtype)
        tokens = draws.draw_tokens(logits)
        half = reference.token_stats(logits, tokens, temperature=0.6, extras=True)
        full = reference.token_stats(logits.float(), tokens, temperature=0.6, extras=True)
        assert all(same_bits(getattr(half, name), getattr(full, name)) for name in OUTPUTS)
