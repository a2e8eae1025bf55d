from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.controllers import AdaptiveEntropy, ReferenceReset

MEASURED = [0.15, 0.15, 0.25, 0.20, 0.10, 0.10]


def _run(controller, measured=MEASURED, dtype=torch.float64):
    return [controller.step(torch.tensor(e, dtype=dtype)).item() * 1e4 for e in measured]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("gate", "used", "last"),
    [
        ("lagged_strict", [0, 1, 2, 0, 0, 1], 2),
        ("current_le", [0, 1, 0, 1, 0, 1], 2),
        # At 0.20 the coefficient rises and the gate of the next step is open: 1 + 1, then 3.
        ("lagged_le", [0, 1, 2, 0, 2, 3], 4),
    ],
)
def test_adaptive_entropy_by_hand(gate, used, last, dtype):
    """target 0.2, delta 1e-4: catches a missing lag and < taken for ≤ (the fourth is 0.2)."""
    controller = AdaptiveEntropy(0.2, delta=1e-4, gate=gate)
    assert _run(controller, dtype=dtype) == pytest.approx(used, abs=1e-5)
    assert controller.state_dict()["coefficient"].item() * 1e4 == pytest.approx(last, abs=1e-5)


def test_adaptive_entropy_stays_in_its_range():
    controller = AdaptiveEntropy(0.2, delta=1e-4, initial=1e-4, minimum=5e-5, maximum=2.5e-4)
    assert _run(controller, [0.1] * 4) == pytest.approx([1, 2, 2.5, 2.5])
    _run(controller, [0.3] * 5)
    assert controller.state_dict()["coefficient"].item() == pytest.approx(5e-5)


def test_a_measurement_of_nothing_moves_nothing():
    """An empty mini-batch has no mean entropy; NaN must not enter the state."""
    controller = AdaptiveEntropy()
    _run(controller, [0.1, 0.1])
    before = controller.state_dict()
    assert _run(controller, [math.nan]) == [0.0]
    assert controller.state_dict() == before
    assert _run(controller, [0.1]) == pytest.approx([2])


@pytest.mark.parametrize("gate", ["lagged_strict", "current_le", "lagged_le"])
def test_restored_controller_continues_alike(gate):
    """Catches a gate that is not saved: after 0.15 it is open, after 0.25 it is shut."""
    for cut in range(len(MEASURED)):
        whole = AdaptiveEntropy(gate=gate)
        expected = _run(whole)
        first, second = AdaptiveEntropy(gate=gate), AdaptiveEntropy(gate=gate)
        start = _run(first, MEASURED[:cut])
        second.load_state_dict(first.state_dict())
        assert start + _run(second, MEASURED[cut:]) == expected
    with pytest.raises(ValueError, match="state: expected coefficient, open, got integral"):
        second.load_state_dict({"integral": torch.tensor(0.0)})


def test_controllers_never_ask_the_device():
    with FakeTensorMode():
        controller = AdaptiveEntropy()
        for _ in range(3):
            coefficient = controller.step(torch.empty(()))
        assert coefficient.ndim == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "soft"}, "gate: expected one of lagged_strict, current_le, lagged_le"),
        ({"delta": -1.0}, "delta: expected a number >= 0"),
        ({"maximum": -1.0}, "maximum: expected a number >= 0"),
        ({"initial": 1.0}, "initial: expected a number >= 0 and <= 0.005, got 1"),
    ],
)
def test_adaptive_entropy_names_a_bad_option(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveEntropy(**options)
    with pytest.raises(ValueError, match=r"measured: expected shape \[\]"):
        AdaptiveEntropy().step(torch.zeros(2))


def test_reset_every():
    reset = ReferenceReset(every=3)
    assert [reset.step() for _ in range(7)] == [False, False, True, False, False, True, False]


def test_reset_on_a_spike():
    reset = ReferenceReset(kl_limit=0.5)
    assert [reset.step(kl=kl) for kl in (0.4, 0.5, 0.6, 0.1)] == [False, False, True, False]
    assert not reset.step()


def test_reset_on_stalled_validation():
    """Steps without a validation do not count, an equal score has not improved, and the best
    score is forgotten with the reset."""
    reset = ReferenceReset(patience=2)
    scores = [0.5, None, 0.6, 0.6, None, 0.4, 0.1, 0.05, 0.02]
    due = [reset.step(validation=score) for score in scores]
    assert due == [False, False, False, False, False, True, False, False, True]


def test_restored_reset_continues_alike():
    scores = [0.5, 0.4, 0.6, 0.6, 0.4, 0.1, 0.05]
    whole = ReferenceReset(every=4, patience=2)
    expected = [whole.step(validation=s) for s in scores]
    for cut in range(len(scores)):
        first, second = (ReferenceReset(every=4, patience=2) for _ in range(2))
        start = [first.step(validation=s) for s in scores[:cut]]
        second.load_state_dict(first.state_dict())
        assert start + [second.step(validation=s) for s in scores[cut:]] == expected
    with pytest.raises(ValueError, match="every: expected a number >= 1, got 0"):
        ReferenceReset(every=0)
