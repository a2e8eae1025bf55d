"""The plant of EntroPIC's controller against the roots of its loop, and against sums by hand."""

from __future__ import annotations

import pytest

from sim.lab.disturbances import answers
from sim.lab.plant import decay, drift, modulus, pulse, simulate, unbounded

KP, KI = 1.0, 0.02


@pytest.mark.parametrize(("gain", "lag"), [(0.2, 0), (0.1, 4), (0.2, 8), (0.1, 16)])
def test_the_loop_of_the_plant(gain, lag):
    """Catches a characteristic polynomial off by a power: swings die out as its roots say."""
    path = simulate(unbounded(KP, KI), gain, 1200, disturbance=pulse(0.2, 100), lag=lag)
    scale = [max(map(abs, path[at : at + 100])) for at in (500, 1000)]
    root = modulus(gain, lag, kp=KP, ki=KI)
    assert (scale[1] / scale[0]) ** (1 / 500) == pytest.approx(root, abs=2e-3)


def test_disturbances_come_when_they_should():
    """Catches a drift that is a pulse, a pulse that stays, and either a step off."""
    assert [drift(0.5, 2)(step) for step in range(4)] == [0.0, 0.0, 0.5, 0.5]
    assert [pulse(0.5, 2)(step) for step in range(4)] == [0.0, 0.0, 0.5, 0.0]


def test_decay_of_a_known_swing():
    """Catches a factor per half instead of per step, and swings that grow taken for dying ones."""
    for factor in (0.97, 1.01):
        swings = [(-factor) ** k for k in range(200)]
        assert decay(swings) == pytest.approx(factor)
    assert decay([0.0] * 200) == 0.0


def test_answers_to_disturbances():
    """Catches P and PI exchanged, an area off by a gain, and a hold that does not hold."""
    tables = answers(
        kp=KP,
        ki=KI,
        gains=(0.05, 0.2, 0.4),
        lags=(0, 16),
        lost=0.2,
        drifting=0.01,
        shock=50,
        steps=400,
    )
    assert tables["drifts"].column("gain") == [0.2]
    assert tables["drifts"].numbers("area") == pytest.approx([1.0], abs=0.01)
    pulses = tables["pulses"].where(gain=0.2)
    # Each step takes back gain·kp of the error, PI also gain·ki of all errors before.
    for name, third in (("P", -0.128), ("PI", -0.128 + 0.2 * KI * 0.2)):
        path = [pulses.numbers("entropy", controller=name, step=k)[0] for k in range(4)]
        assert path == pytest.approx([0.0, -0.2, -0.16, third], rel=1e-9)
    stable = tables["stability"].where(lag=16)
    assert stable.numbers("measured", gain=0.05)[0] < 1 < stable.numbers("measured", gain=0.4)[0]
    free, held = tables["windup"].numbers("overshoot")
    assert 0 < held < 0.5 * free
