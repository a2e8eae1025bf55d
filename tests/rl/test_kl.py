from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.losses import kl_penalty

ESTIMATORS = ["k1", "k2", "k3", "unbiased"]


def _kl(logp, ref, estimator, old=None, **options):
    logp = torch.tensor([[logp]], dtype=torch.float64, requires_grad=True)
    old = None if old is None else torch.tensor([[old]], dtype=torch.float64)
    kl, _ = kl_penalty(
        logp,
        torch.tensor([[ref]], dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.bool),
        estimator=estimator,
        old_logp=old,
        **options,
    )
    (gradient,) = torch.autograd.grad(kl.sum(), logp)
    return kl.item(), gradient.item()


@pytest.mark.parametrize(
    ("old", "value", "gradient"), [(-1.0, 0.367879, 1.0), (-1.5, 0.606531, 1.648721)]
)
def test_unbiased_case(old, value, gradient):
    """logp −1, reference −2: catches a ratio without gradient, which would give .632121·ρ."""
    got = _kl(-1.0, -2.0, "unbiased", old)
    assert got == pytest.approx((value, gradient), abs=1e-6)
    assert _kl(-1.0, -2.0, "k3") == pytest.approx((0.367879, 0.632121), abs=1e-6)


@pytest.mark.parametrize(
    ("difference", "k1", "k2", "k3"), [(0.5, 0.5, 0.125, 0.1065307), (-0.5, -0.5, 0.125, 0.1487213)]
)
def test_three_estimators_by_hand(difference, k1, k2, k3):
    """And their slopes 1, d and 1 − e⁻ᵈ."""
    slopes = (1.0, difference, 1 - math.exp(-difference))
    for estimator, value, slope in zip(ESTIMATORS, (k1, k2, k3), slopes, strict=False):
        got = _kl(difference - 1, -1.0, estimator)
        assert got == pytest.approx((value, slope), abs=1e-7)


def test_bound_on_the_value():
    """Raw 12, 72, 11.0000061 become 10, and the gradient goes with the bound."""
    for estimator, raw in (("k1", 12.0), ("k2", 72.0), ("k3", 11.0000061)):
        assert _kl(0.0, -12.0, estimator)[0] == pytest.approx(raw)
        assert _kl(0.0, -12.0, estimator, max_value=10.0) == (10.0, 0.0)


def test_bounds_hold_on_both_sides():
    """k1 is negative below the reference; differences beyond ±20 are held, without gradient."""
    assert _kl(-12.0, 0.0, "k1", max_value=10.0) == (-10.0, 0.0)
    value, gradient = _kl(-19.0, 0.0, "k3")
    assert gradient == pytest.approx(1 - math.exp(19))
    value, gradient = _kl(-21.0, 0.0, "k3")
    assert (value, gradient) == (pytest.approx(math.exp(20) - 21), 0.0)


@pytest.mark.parametrize("estimator", ["k2", "k3", "unbiased"])
def test_expected_gradient_is_that_of_the_divergence(estimator):
    """Over the whole vocabulary, sampled off policy: only the unbiased estimator is exact.

    Catches a wrong sign or a missing factor where single numbers would agree by chance.
    """
    generator = torch.Generator().manual_seed(0)
    z, ref, old = (torch.randn(7, generator=generator).double() for _ in range(3))
    z.requires_grad_()
    logp, ref_logp, old_logp = (x.log_softmax(-1)[None] for x in (z, ref, old))
    everywhere = torch.ones(1, 7, dtype=torch.bool)

    def expected_gradient(sampler):
        behaviour = sampler if estimator == "unbiased" else None
        kl, _ = kl_penalty(logp, ref_logp, everywhere, estimator=estimator, old_logp=behaviour)
        weighted = (sampler.detach().exp() * kl).sum()
        return torch.autograd.grad(weighted, z, retain_graph=True)[0]

    truth = torch.autograd.grad((logp.exp() * (logp - ref_logp)).sum(), z, retain_graph=True)[0]
    exact_on_policy = estimator != "k3"
    assert torch.allclose(expected_gradient(logp), truth, atol=1e-12) == exact_on_policy
    assert torch.allclose(expected_gradient(old_logp), truth, atol=1e-12) == (
        estimator == "unbiased"
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("logp", "ref"), [(-math.inf, -1.0), (-1.0, -math.inf), (math.nan, 0.0)])
def test_nonfinite_counts_as_no_divergence(estimator, logp, ref):
    values = torch.tensor([[logp, -1.0, math.nan]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    old = torch.full((1, 3), -1.0) if estimator == "unbiased" else None
    reference = torch.tensor([[ref, -2.0, math.nan]])
    kl, metrics = kl_penalty(values, reference, mask, estimator=estimator, old_logp=old)
    kl.sum().backward()
    assert kl[0, 0] == kl[0, 2] == values.grad[0, 0] == values.grad[0, 2] == 0
    assert values.grad[0, 1] > 0
    assert metrics["nonfinite_ref"] == 1
    assert metrics["kl_ref"] == kl.sum()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_never_asks_the_device(estimator):
    with FakeTensorMode():
        logp, other = torch.empty(2, 3, requires_grad=True), torch.empty(2, 3)
        old = other if estimator == "unbiased" else None
        kl, _ = kl_penalty(
            logp, other, torch.empty(2, 3, dtype=torch.bool), estimator=estimator, old_logp=old
        )
        kl.sum().backward()


def test_wrong_arguments_are_named():
    logp, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="estimator: expected one of k1, k2, k3, unbiased"):
        kl_penalty(logp, logp, mask, estimator="k4")
    for estimator, old in (("unbiased", None), ("k3", logp)):
        with pytest.raises(ValueError, match='old_logp: expected one with estimator "unbiased"'):
            kl_penalty(logp, logp, mask, estimator=estimator, old_logp=old)
    with pytest.raises(TypeError, match="ref_logp: expected a floating-point tensor"):
        kl_penalty(logp, torch.zeros(1, 2, dtype=torch.int64), mask)
    with pytest.raises(ValueError, match="max_value: expected a number > 0"):
        kl_penalty(logp, logp, mask, max_value=0.0)
