"""Widths and prices of a sweep over a coefficient, by hand."""

from __future__ import annotations

import math

import pytest

from sim.lab.sweep import cost_of_half, decades_of_rise


def test_decades_of_the_middle_half():
    """Catches quarters of the entropy instead of its rise, and lines over the coefficient."""
    coefficients, entropies = (0.0, 0.01, 0.1, 1.0), (0.2, 0.2, 0.4, 1.0)
    # A quarter of the rise is met exactly at 0.1, three quarters two thirds of the decade above.
    assert decades_of_rise(coefficients, entropies) == pytest.approx(2 / 3)
    # From 0 there are no decades: what happens up to the first coefficient counts as at it.
    assert decades_of_rise((0.0, 0.01, 0.1), (0.0, 0.5, 1.0)) == pytest.approx(0.5)
    steep = decades_of_rise((0.0, 0.25, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0))
    assert steep == pytest.approx(0.5 * math.log10(2))


def test_the_price_of_half_of_the_rise():
    """Catches a reward read at another place than the entropy's half, and a lost sign."""
    assert cost_of_half((0.2, 0.4, 1.0), (0.9, 0.8, 0.2)) == pytest.approx(-0.1 - 0.6 / 3)
    assert cost_of_half((0.0, 1.0, 2.0), (0.5, 0.7, 0.1)) == pytest.approx(0.2)
