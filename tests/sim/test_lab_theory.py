"""The theory experiments hold, to the tolerances of theory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from entropy_ext.rl.controllers import EntropyPI
from sim.lab.experiment import QUICK
from sim.lab.experiments import EXPERIMENTS
from sim.lab.logit_steps import action_changes, turn
from sim.lab.plant import critical_gain, simulate
from sim.tabular import centred_advantages, entropy_slope, softmax_policy, vanilla_direction

THEORY = ("first_order", "sampled_update", "chain_rule", "sign_table", "entropic_plant")


@pytest.mark.parametrize("name", THEORY)
def test_theory_holds(name):
    """Catches an order off 2.00 ± 0.05, a boundary off its place, a controller off its error."""
    experiment = EXPERIMENTS[name]
    findings = experiment.findings(experiment.measure(QUICK))
    assert [f.criterion.text for f in findings if not f.holds] == []
    assert experiment.verdict(findings) == "reproduced"


@pytest.mark.parametrize("name", THEORY)
def test_bounds_are_those_of_the_theory(name):
    """Catches a bound loosened in an experiment's file until it holds."""
    bounds = {
        "first_order": [(1.95, 2.05)] * 2 + [(0.99, 1.01)] * 2 + [(None, 0.01)] * 2,
        "sampled_update": [(1.95, 2.05), (0.9, 0.99), (None, 0.01)],
        "chain_rule": [(None, 1e-12), (1.95, 2.05), (0.1, None)],
        "sign_table": [(None, 1)] * 2 + [(None, 1e-8)] * 3,
        "entropic_plant": [(None, 1e-3)] * 3 + [(0.95, None), (None, 1.05), (None, 0.05)],
    }
    assert [(c.above, c.below) for c in EXPERIMENTS[name].criteria] == bounds[name]


def test_the_expectation_over_actions_is_the_exact_gradient():
    """Catches a sampled direction that is not a score: Σ π_a A_a (e_a − π) = π·A."""
    policy = softmax_policy(np.log([[0.6, 0.3, 0.1]]))
    advantages = centred_advantages(policy, np.array([[1.0, 0.2, 0.5]]))
    change = action_changes(policy, advantages, 1e-7)
    slope = entropy_slope(policy, vanilla_direction(policy, advantages))
    assert (policy.probs * change).sum() / 1e-7 == pytest.approx(float(slope[0]), rel=1e-6)


def test_the_boundaries_are_not_one():
    """Catches both updates measured with the same direction: their turns lie apart."""
    others = np.array([1.0, 0.0, -1.0])
    (bump, margin), (step, _) = turn(others, "bump"), turn(others, "step")
    assert abs(bump - step) > 0.01
    assert abs(margin) < 1e-8


@pytest.mark.parametrize("lag", [0, 2])
def test_critical_gain_by_its_polynomial(lag):
    """Catches a lag off by one: z^(d+1) − z^d + k has a root on the unit circle there."""
    gain = critical_gain(lag)
    roots = np.roots([1.0, -1.0, *[0.0] * (lag - 1), gain] if lag else [1.0, gain - 1.0])
    assert max(abs(roots)) == pytest.approx(1.0, abs=5e-3)
    assert gain == pytest.approx(2 * math.sin(math.pi / (4 * lag + 2)), rel=0.02)


def test_the_plant_by_hand():
    """Catches a lag off by one, a target a step late, a disturbance of the other sign."""
    controller = EntropyPI(1.0, kp=1.0, ki=0.0)
    path = simulate(
        controller,
        0.5,
        4,
        start=2.0,
        lag=1,
        disturbance=lambda step: 0.25 if step == 2 else 0.0,
        targets={3: 2.0},
    )
    # α is H − target: 1, then 1 again for the lag, 0.5 with the disturbance, and 1 − 2.
    assert path == pytest.approx([2.0, 1.5, 1.0, 0.5, 1.0])
