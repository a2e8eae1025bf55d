"""Closed forms of tabular policies against fifty digits and against hand figures."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from sim.tabular import (
    centred_advantages,
    covariance,
    entropy_change,
    entropy_change_by_subtraction,
    entropy_curvature,
    entropy_slope,
    natural_direction,
    softmax_policy,
    vanilla_direction,
)

DIGITS = 60
LOGITS = {
    # Here the covariance is 0 and ΔH of second order: nothing hides an error of first order.
    "uniform": np.zeros(40),
    "flat": np.linspace(-0.1, 0.1, 40),
    "middling": 2.0 * np.sin(np.arange(40.0) ** 2),
    "peaked": np.append(12.0, np.linspace(-3.0, 3.0, 39)),
    "certain": np.append(40.0, np.linspace(-3.0, 3.0, 39)),
    "offset": 1000.0 + 3.0 * np.cos(np.arange(40.0) ** 2),
    "two actions": np.array([0.3, -1.1]),
}
DIRECTION = 1.5 * np.cos(1.0 + np.arange(40.0))


def _mp_softmax(logits):
    largest = max(logits)
    weights = [mpmath.exp(z - largest) for z in logits]
    total = mpmath.fsum(weights)
    logp = [z - largest - mpmath.log(total) for z in logits]
    return [w / total for w in weights], logp


def _mp_entropy(logits):
    probs, logp = _mp_softmax(logits)
    return -mpmath.fsum(p * lp for p, lp in zip(probs, logp, strict=True))


def _mp_row(row):
    return [mpmath.mpf(float(value)) for value in row]


def _mp_entropy_change(logits, delta):
    before = _mp_row(logits)
    after = [z + d for z, d in zip(before, _mp_row(delta), strict=True)]
    return float(_mp_entropy(after) - _mp_entropy(before))


@pytest.fixture(autouse=True)
def _sixty_digits():
    with mpmath.workdps(DIGITS):
        yield


@pytest.mark.parametrize("name", LOGITS)
def test_policy_to_full_precision(name):
    """Catches a lost maximum (overflow, offset), a wrong sign, a lse formed from another row."""
    table = np.stack([LOGITS[name], LOGITS[name][::-1] + 1.0])
    policy = softmax_policy(table)
    for row, logits in enumerate(table):
        probs, logp = _mp_softmax(_mp_row(logits))
        np.testing.assert_allclose(policy.probs[row], [float(p) for p in probs], rtol=2e-14)
        np.testing.assert_allclose(policy.logp[row], [float(lp) for lp in logp], rtol=1e-14)
        entropy = float(_mp_entropy(_mp_row(logits)))
        np.testing.assert_allclose(policy.entropy[row], entropy, rtol=2e-14)
        lse = float(mpmath.log(mpmath.fsum(mpmath.exp(z) for z in _mp_row(logits))))
        np.testing.assert_allclose(policy.lse[row], lse, rtol=1e-15)


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("step", [1e-12, 1e-8, 1e-4, 0.05, 1.0, 20.0])
def test_entropy_change_against_sixty_digits(name, step):
    """Catches any subtraction of near-equal numbers, a wrong series and a wrong branch limit."""
    logits = LOGITS[name]
    delta = step * DIRECTION[: len(logits)]
    truth = _mp_entropy_change(logits, delta)
    measured = entropy_change(softmax_policy(logits[None]), delta[None])[0]
    # The terms that make up ΔH have both signs; a few ulp of their size is all that is allowed.
    assert measured == pytest.approx(truth, rel=3e-13, abs=0.0)


def test_subtracting_entropies_loses_what_the_other_form_keeps():
    """Catches entropy_change falling back to H(π′) − H(π): a step of 1e-12 tells them apart."""
    policy = softmax_policy(LOGITS["middling"][None])
    delta = 1e-12 * DIRECTION[None]
    truth = _mp_entropy_change(LOGITS["middling"], delta[0])
    assert abs(entropy_change(policy, delta)[0] - truth) < 1e-12 * abs(truth)
    assert abs(entropy_change_by_subtraction(policy, delta)[0] - truth) > 1e-6 * abs(truth)


def test_subtraction_agrees_on_large_steps():
    """Catches a by-subtraction form that shows something else than rounding."""
    policy = softmax_policy(np.stack([LOGITS["flat"], LOGITS["middling"], LOGITS["peaked"]]))
    delta = np.stack([DIRECTION, -DIRECTION, DIRECTION[::-1]])
    np.testing.assert_allclose(
        entropy_change_by_subtraction(policy, delta),
        entropy_change(policy, delta),
        rtol=1e-11,
        atol=1e-14,
    )


@pytest.mark.parametrize("name", LOGITS)
def test_slope_and_curvature_are_derivatives_of_the_entropy(name):
    """Catches a wrong sign or factor, and the second-order term without its third cumulant."""
    logits = LOGITS[name]
    direction = DIRECTION[: len(logits)]
    z, d = _mp_row(logits), _mp_row(direction)

    def entropy_at(eta):
        return _mp_entropy([a + eta * b for a, b in zip(z, d, strict=True)])

    policy = softmax_policy(logits[None])
    slope = float(mpmath.diff(entropy_at, 0))
    curvature = float(mpmath.diff(entropy_at, 0, 2))
    assert entropy_slope(policy, direction[None])[0] == pytest.approx(slope, rel=1e-12, abs=1e-17)
    assert entropy_curvature(policy, direction[None])[0] == pytest.approx(
        curvature, rel=1e-12, abs=0.0
    )


def test_covariance_by_hand():
    """Catches uniform in place of policy weights, and missing centring of either side."""
    policy = softmax_policy(np.log([[0.5, 0.25, 0.25]]))
    x = np.array([[1.0, 3.0, 5.0]])  # mean 2.5
    y = np.array([[2.0, 0.0, 4.0]])  # mean 2
    # ½(−1.5)(0) + ¼(0.5)(−2) + ¼(2.5)(2)
    assert covariance(policy, x, y)[0] == pytest.approx(1.0, rel=1e-15)
    assert covariance(policy, x + 7.0, y - 9.0)[0] == pytest.approx(1.0, rel=1e-14)


def test_advantages_and_directions_by_hand():
    """Catches advantages centred uniformly, and a swap of the two gradients."""
    policy = softmax_policy(np.log([[0.7, 0.2, 0.1]]))
    advantages = centred_advantages(policy, np.array([[1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(advantages, [[0.3, -0.7, -0.7]], rtol=1e-15)
    np.testing.assert_allclose(
        vanilla_direction(policy, advantages), [[0.21, -0.14, -0.07]], rtol=1e-15
    )
    np.testing.assert_array_equal(natural_direction(policy, advantages), advantages)


def test_vanilla_direction_is_the_gradient_of_the_return():
    """Catches a step that is not the ascent direction of Σ π Q in the logits."""
    logits, returns = LOGITS["middling"], np.cos(3.0 * np.arange(40.0))
    policy = softmax_policy(logits[None])
    direction = vanilla_direction(policy, centred_advantages(policy, returns[None]))[0]
    q = _mp_row(returns)
    for index in (0, 7, 39):

        def value(z, index=index):
            shifted = _mp_row(logits)
            shifted[index] = z
            probs, _ = _mp_softmax(shifted)
            return mpmath.fsum(p * r for p, r in zip(probs, q, strict=True))

        gradient = float(mpmath.diff(value, float(logits[index])))
        assert direction[index] == pytest.approx(gradient, rel=1e-12, abs=0.0)


def test_rows_do_not_depend_on_their_neighbours():
    """Catches sums whose order depends on how many states a chunk holds."""
    rng = np.random.default_rng(1)
    logits = 4.0 * rng.standard_normal((7, 50257))
    delta = 1e-3 * rng.standard_normal((7, 50257))
    together = softmax_policy(logits)
    for row in range(7):
        alone = softmax_policy(logits[row : row + 1])
        for one, all_rows in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_rows[row])
        for function in (entropy_change, entropy_slope, entropy_curvature):
            one = function(alone, delta[row : row + 1])[0]
            assert one == function(together, delta)[row], function.__name__


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        ([[0.0, 1.0]], TypeError, "logits: expected a float64 array, got list"),
        (np.zeros((2, 3), np.float32), TypeError, "logits: expected a float64 array, got float32"),
        (np.zeros(3), ValueError, r"logits: expected \[S, A\] with A ≥ 1, got \[3\]"),
        (np.zeros((3, 0)), ValueError, r"logits: expected \[S, A\] with A ≥ 1, got \[3, 0\]"),
        (np.array([[0.0, -np.inf]]), ValueError, "logits: expected finite values"),
    ],
)
def test_bad_logits_are_named(logits, error, message):
    """Catches a table that would give NaN or float32 rounding without a word."""
    with pytest.raises(error, match=message):
        softmax_policy(logits)
