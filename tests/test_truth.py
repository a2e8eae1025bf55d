"""The tolerance rule itself: PyTorch must pass it, and defects that peers have shipped must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from entropy_ext import TokenStats
from tests import draws
from tests.truth import (
    Upstream,
    assert_within_rule,
    baseline_run,
    natural_token_stats,
    run,
    same_bits,
    true_run,
    ulp,
)


def check(function: Callable[..., TokenStats], kind: str, vocab: int, dtype: torch.dtype) -> None:
    """The rule as the suite applies it, on logp, entropy and the gradient of their sum."""
    logits = draws.draw_logits(kind, 6, vocab, dtype)
    tokens = draws.draw_tokens(logits)
    temperature = draws.cycled_temperatures(6, dtype)
    ones = torch.ones(6)
    upstreams: list[Upstream] = [(ones, ones, None)]
    ours = run(function, logits, tokens, temperature, upstreams)
    truth = true_run(logits, tokens, temperature, upstreams)
    baseline = baseline_run(logits, tokens, temperature, upstreams)
    for name in ("logp", "entropy"):
        assert_within_rule(
            name,
            ours.values[name],
            truth.values[name],
            baseline.values[name],
            compute=torch.float32,
        )
    assert_within_rule(
        "gradient",
        ours.gradients[0],
        truth.gradients[0],
        baseline.gradients[0],
        compute=torch.float32,
        stored=dtype,
    )


def upcast(logits: Tensor, tokens: Tensor, *, temperature: Tensor, extras: bool) -> TokenStats:
    return natural_token_stats(logits.float(), tokens, temperature=temperature, extras=extras)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["uniform", "randn", "peaked", "one_hot", "shifted", "flat"])
def test_plain_pytorch_passes(kind: str, dtype: torch.dtype) -> None:
    """A rule that PyTorch itself breaks would ask for luck."""
    check(upcast, kind, 2053, dtype)


def wrong_sign(logits: Tensor, tokens: Tensor, *, temperature: Tensor, extras: bool) -> TokenStats:
    """Right values, an entropy gradient of the wrong sign."""
    stats = upcast(logits, tokens, temperature=temperature, extras=extras)
    return stats._replace(entropy=2 * stats.entropy.detach() - stats.entropy)


def rounded_temperature(
    logits: Tensor, tokens: Tensor, *, temperature: Tensor, extras: bool
) -> TokenStats:
    """logits/τ in bfloat16, as a framework does that divides before it upcasts."""
    scaled = (logits / temperature[:, None].to(logits.dtype)).float()
    return natural_token_stats(
        scaled, tokens, temperature=torch.ones_like(temperature), extras=extras
    )


def lse_first(logits: Tensor, tokens: Tensor, *, temperature: Tensor, extras: bool) -> TokenStats:
    """ln p as z/τ − lse: the rounding of an lse near 1e4 enters every probability."""
    scaled = logits.float() / temperature[:, None]
    log_p = scaled - scaled.logsumexp(-1, keepdim=True).detach()
    p = log_p.exp()
    stats = upcast(logits, tokens, temperature=temperature, extras=extras)
    logp = log_p.gather(-1, tokens[:, None])[:, 0]
    return stats._replace(logp=logp, entropy=-(p * log_p).sum(-1))


@pytest.mark.parametrize(
    ("defect", "kind", "dtype", "seen_in"),
    [
        (wrong_sign, "randn", torch.float32, "gradient"),
        (wrong_sign, "peaked", torch.bfloat16, "gradient"),
        (rounded_temperature, "randn", torch.bfloat16, "logp"),
        (rounded_temperature, "peaked", torch.bfloat16, "logp"),
        (lse_first, "shifted", torch.float32, "logp"),
    ],
)
def test_planted_defects_are_seen(
    defect: Callable[..., TokenStats], kind: str, dtype: torch.dtype, seen_in: str
) -> None:
    with pytest.raises(AssertionError, match=f"^{seen_in}: "):
        check(defect, kind, 2053, dtype)


def test_nan_and_misplaced_infinities_are_seen() -> None:
    """Catches comparisons that NaN passes because every comparison with it is false."""
    truth = torch.tensor([1.0, -torch.inf, 2.0], dtype=torch.float64)
    kept = {"truth": truth, "baseline": truth, "compute": torch.float32}
    assert_within_rule("same", truth, **kept)
    for wrong in ([torch.nan, -torch.inf, 2.0], [1.0, torch.inf, 2.0], [1.0, 0.0, 2.0]):
        with pytest.raises(AssertionError):
            assert_within_rule("wrong", torch.tensor(wrong), **kept)
    with pytest.raises(ValueError, match="nothing to compare with"):
        assert_within_rule("void", truth, truth, truth * torch.nan, compute=torch.float32)


@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_ulp_is_the_spacing_of_the_dtype(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    x = torch.tensor([1.0, 1.5, 2.0, 0.75, 1000.0, info.tiny, 3 * info.tiny], dtype=dtype)
    # nextafter is missing for half precision: step the bits.
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    above = (x.view(integer) + 1).view(dtype)
    assert torch.equal(ulp(x.double(), dtype), above.double() - x.double())
    assert torch.equal(ulp(-x.double(), dtype), ulp(x.double(), dtype))


def test_same_bits_is_stricter_than_equal() -> None:
    zero = torch.tensor([0.0])
    assert not same_bits(zero, -zero)
    assert same_bits(zero / 0, zero / 0)
    assert not same_bits(zero, zero.double())
