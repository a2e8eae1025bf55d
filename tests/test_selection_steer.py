"""STEER's weights: the forms of Ω, the two maps, their bounds and their range."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import entropy_ext
from entropy_ext import TokenStats, entropy_change, reference, steer_weights, token_stats
from tests.selection import Batch, draw_batch, each_api, each_dtype, tensor
from tests.truth import same_bits

pytestmark = pytest.mark.isa
FORMS = ("code", "own_logit", "exact")
each_form = pytest.mark.parametrize("form", FORMS)
MAPS: tuple[dict[str, Any], ...] = ({}, {"weight_map": "linear", "lambda_max": 1.2})


def weights_of(api: ModuleType, batch: Batch, **options: Any) -> Tensor:
    result: Tensor = api.steer_weights(
        batch.logp,
        batch.old_logp,
        batch.entropy,
        batch.advantages,
        batch.mask,
        collision=batch.collision,
        collision_logp=batch.collision_logp,
        **options,
    )
    return result


def influences(batch: Batch, form: str) -> Tensor:
    """Ω in float64, from the formulas. [...]"""
    logp, old_logp, entropy, collision, collision_logp, a = (x.double() for x in batch[:6])
    p = logp.exp()
    if form == "code":
        x = p.clamp(1e-8, 1 - 1e-8)
        return a / old_logp.exp().clamp(1e-8, 1) * x * (1 - x) * (x.log() + entropy)
    ratio = (logp - old_logp).clamp(-20, 20).exp()
    s = p * (logp + entropy)
    if form == "own_logit":
        return ratio * a * s * (1 - p)
    return ratio * a * (s - (collision_logp + entropy * collision))


@each_api
@each_dtype
@each_form
@pytest.mark.parametrize("options", MAPS, ids=["exp", "linear"])
def test_weights_against_the_formulas(
    options: dict[str, Any], form: str, api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """On peaked and flat tokens, off-policy, NaN in the padding."""
    batch = draw_batch("steer", (7, 40), dtype, device)
    got = weights_of(api, batch, form=form, **options)
    assert got.dtype == dtype
    assert (got[~batch.mask] == 0).all()
    m = influences(batch, form)[batch.mask].abs()
    if not options:
        expected = (math.log(0.8) * m / m.max()).exp()
        assert m.max() > 0.02
    else:
        expected = 1.2 - (m - m.min()) / (m.max() - m.min()) * 0.4
    # Weights span a fifth: their error is that of M/M_max.
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(got[batch.mask].double(), expected, rtol=0, atol=tolerance)
    assert got[batch.mask].min().item() == pytest.approx(0.8, rel=1e-6)
    assert got.max() <= 1.2


@each_api
@each_form
def test_weights_fall_with_the_influence_whatever_its_sign(
    form: str, api: ModuleType, device: torch.device
) -> None:
    """Catches weights of Ω in place of |Ω|."""
    batch = draw_batch("signs", (300,), torch.float64, device)
    flipped = batch._replace(advantages=-batch.advantages)
    for options in MAPS:
        got = weights_of(api, batch, form=form, **options)
        assert same_bits(got, weights_of(api, flipped, form=form, **options))
        order = influences(batch, form)[batch.mask].abs().argsort()
        assert (got[batch.mask][order].diff() <= 0).all()


@each_api
@each_form
def test_exact_form_is_the_entropy_change(form: str, api: ModuleType, device: torch.device) -> None:
    """With these settings a weight is exp(−|Ω|); the others differ from it."""
    batch = draw_batch("link", (200,), torch.float64, device)
    batch = Batch(*(x[batch.mask] for x in batch))
    stats = TokenStats(
        batch.logp,
        batch.entropy,
        batch.logp,
        collision=batch.collision,
        collision_logp=batch.collision_logp,
    )
    ratio = (batch.logp - batch.old_logp).exp()
    change = api.entropy_change(stats, batch.advantages, ratio=ratio)
    weights = weights_of(api, batch, form=form, weight_scale=50.0, lambda_min=math.exp(-50))
    same = torch.allclose(-weights.log(), change.abs(), rtol=1e-9, atol=1e-13)
    assert same == (form == "exact")


@each_api
@each_form
def test_given_scale(form: str, api: ModuleType, device: torch.device) -> None:
    """A number, a 0-d tensor, or both ends: micro-batches as the whole step would have it."""
    batch = draw_batch("scale", (6, 30), torch.float64, device)
    m = influences(batch, form)[batch.mask].abs()
    for options in MAPS:
        whole = weights_of(api, batch, form=form, **options)
        ends = torch.stack([m.min(), m.max()])
        scales = [ends] if options else [ends, ends[1], ends[1].item()]
        for scale in scales:
            parts = [
                weights_of(
                    api,
                    Batch(*(x[rows] for x in batch)),
                    form=form,
                    weight_scale=scale,
                    **options,
                )
                for rows in (slice(0, 2), slice(2, 6))
            ]
            torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-14, atol=0)
    # A scale below the range: clamped to λ_min, not beyond.
    low = weights_of(api, batch, form=form, floor=0.0, weight_scale=m.median().item())
    assert (low[batch.mask][m >= m.median()] - 0.8).abs().max() < 1e-12


@each_api
@given(
    lambda_min=st.floats(1e-3, 1.0),
    lambda_max=st.floats(1.0, 3.0),
    floor=st.floats(0, 10),
    scale=st.floats(1e-6, 1e6),
)
def test_weights_stay_within_their_bounds(
    lambda_min: float,
    lambda_max: float,
    floor: float,
    scale: float,
    api: ModuleType,
    device: torch.device,
) -> None:
    """Whatever is rounded: catches a weight of λ_min·(1 − ε)."""
    batch = draw_batch("bounds", (50,), torch.float32, device)
    batch = batch._replace(advantages=(batch.advantages * scale).float())
    low, high = torch.tensor([lambda_min, lambda_max], dtype=torch.float32).tolist()
    weights = weights_of(api, batch, lambda_min=low, floor=floor)[batch.mask]
    assert low <= weights.min() <= weights.max() <= 1
    line = weights_of(api, batch, lambda_min=low, lambda_max=high, weight_map="linear")
    assert low <= line[batch.mask].min()
    assert line.max() <= high


@each_api
def test_clamps_of_the_code_form(api: ModuleType, device: torch.device) -> None:
    """π = 1, π = 0 and π_old below 1e-8: finite, as the authors' clamps have it."""
    logp = tensor([0.0, -50.0, -1.0], device)
    old_logp = tensor([0.0, -50.0, -40.0], device)
    entropy, ones = tensor([1e-7, 3.0, 1.0], device), tensor([1.0] * 3, device)
    weights = api.steer_weights(
        logp, old_logp, entropy, ones, None, weight_scale=1e8, lambda_min=math.exp(-1.0)
    )
    x = math.exp(-1.0)
    expected = [1e-8 * 9e-8, math.log(1e8) - 3.0, 1e8 * x * (1 - x) * 0.0]
    got = -weights.log() * 1e8
    torch.testing.assert_close(got, tensor(expected, device), rtol=1e-6, atol=3e-8)

    # π = 1 itself: x(1 − x)(ln x + H) of x = 1 − 1e-8 and H = 2 is 2e-8, not 0.
    certain, entropy, one = (tensor([x], device) for x in (0.0, 2.0, 1.0))
    weight = api.steer_weights(
        certain,
        certain,
        entropy,
        one,
        None,
        weight_scale=1e-7,
        floor=0.0,
        lambda_min=math.exp(-1.0),
    )
    assert -weight.log().item() * 1e-7 == pytest.approx(2e-8, rel=1e-6)


@each_api
def test_log_ratio_is_clamped(api: ModuleType, device: torch.device) -> None:
    """At ±20, as in the losses: catches an infinite weight scale from one stale token."""
    logp, old_logp = tensor([-1.0, -30.0], device), tensor([-300.0, -1.0], device)
    entropy, ones = tensor([0.3, 0.3], device), tensor([1.0, 1.0], device)
    weights = api.steer_weights(
        logp,
        old_logp,
        entropy,
        ones,
        None,
        form="own_logit",
        weight_scale=1e9,
        lambda_min=math.exp(-1.0),
    )
    p = math.exp(-1.0)
    expected = math.exp(20) * p * (-1.0 + 0.3) * (1 - p)
    assert -weights[0].log().item() * 1e9 == pytest.approx(-expected, rel=1e-9)
    assert weights[1] == 1.0


@each_form
@pytest.mark.parametrize("name", ["logp", "old_logp", "entropy", "advantages", "collision"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_valid_token_that_is_not_finite(
    poison: float, name: str, form: str, device: torch.device
) -> None:
    """On the CPU an error with its position; on CUDA NaN there, and the range without it."""
    if name == "collision" and form != "exact":
        return
    batch = draw_batch("bad steer", (5, 8), torch.float32, device)
    mask = batch.mask.clone()
    mask[3, 2] = True
    clean = Batch(*(x.nan_to_num(-0.5) if x.is_floating_point() else x for x in batch))
    clean = clean._replace(mask=mask)
    bad = getattr(clean, name).clone()
    bad[3, 2] = poison
    spoiled = clean._replace(**{name: bad})
    arguments = (spoiled.logp, spoiled.old_logp, spoiled.entropy, spoiled.advantages, mask)
    extras: dict[str, Any] = {
        "collision": spoiled.collision,
        "collision_logp": spoiled.collision_logp,
    }
    if device.type == "cpu":
        message = rf"^{name}\[3, 2\]: expected .*finite.*, got {poison}$"
        with pytest.raises(ValueError, match=message):
            steer_weights(*arguments, form=form, **extras)
    else:
        got = steer_weights(*arguments, form=form, **extras)
        mask = mask.clone()
        mask[3, 2] = False
        expected = steer_weights(*arguments[:4], mask, form=form, **extras)
        assert got[3, 2].isnan()
        assert same_bits(got[mask], expected[mask])


@each_api
def test_layouts(api: ModuleType, device: torch.device) -> None:
    """Transposed and expanded inputs, no mask: catches flat reads."""
    batch = draw_batch("layout", (6, 8), torch.float32, device)
    for form in FORMS:
        expected = weights_of(api, batch, form=form)
        turned = weights_of(api, Batch(*(x.t() for x in batch)), form=form)
        assert same_bits(turned.t(), expected)
    dense = Batch(*(x[:1].nan_to_num(-0.4) if x.is_floating_point() else x[:1] for x in batch))
    rows = Batch(*(x.expand(6, 8) for x in dense))._replace(mask=None)
    copied = Batch(*(None if x is None else x.contiguous() for x in rows))
    assert same_bits(weights_of(api, rows), weights_of(api, copied))


@each_api
def test_no_gradient_flows(api: ModuleType, device: torch.device) -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).to(device)
    logits.requires_grad_()
    tokens = torch.zeros(4, dtype=torch.int64, device=device)
    stats = token_stats(logits, tokens, extras=True)
    advantages = torch.ones(4, device=device)
    assert not api.entropy_change(stats, advantages).requires_grad
    weights = api.steer_weights(stats.logp, stats.logp.detach(), stats.entropy, advantages, None)
    assert not weights.requires_grad


@each_dtype
def test_kernels_within_rounding_of_the_reference(dtype: torch.dtype, device: torch.device) -> None:
    """The reference works in float64 and rounds once: so do the kernels, to an ulp."""
    batch = draw_batch("twins", (40, 50), dtype, device)
    eps = torch.finfo(dtype).eps
    for form in FORMS:
        for options in MAPS:
            got = weights_of(entropy_ext, batch, form=form, **options)
            twin = weights_of(reference, batch, form=form, **options)
            torch.testing.assert_close(got, twin, rtol=2 * eps, atol=0)
    valid = Batch(*(x[batch.mask] for x in batch))
    stats = TokenStats(
        valid.logp,
        valid.entropy,
        valid.logp,
        collision=valid.collision,
        collision_logp=valid.collision_logp,
    )
    change = entropy_change(stats, valid.advantages)
    twin = reference.entropy_change(stats, valid.advantages)
    # Where S and Σ pⱼSⱼ cancel, the rounding of exp shows.
    torch.testing.assert_close(change, twin, rtol=2 * eps, atol=1e-15)
