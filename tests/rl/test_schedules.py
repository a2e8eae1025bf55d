from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.controllers import EntropyGuided, epoch_weight, stage_weight


def test_entropy_guided_case():
    """λ₀ = 0, H = .5, .3, .1: the weight used lags the entropy by one step."""
    controller = EntropyGuided()
    used, after = [], []
    for entropy in (0.5, 0.3, 0.1):
        used.append(controller.step(torch.tensor(entropy, dtype=torch.float64)).item())
        after.append(controller.state_dict()["weight"].item())
    assert after == pytest.approx([0.05, 0.10, 0.05])
    assert used == pytest.approx([0.0, 0.05, 0.10])


def test_entropy_guided_at_its_bounds():
    """At the threshold it rises; it stays within 0 and 1."""
    controller = EntropyGuided(0.2, delta=0.6, initial=0.5)
    entropies = [0.2, 0.9, 0.1, 0.1, 0.1]
    weights = []
    for entropy in entropies:
        controller.step(torch.tensor(entropy, dtype=torch.float64))
        weights.append(controller.state_dict()["weight"].item())
    assert weights == pytest.approx([1.0, 1.0, 0.4, 0.0, 0.0])


def test_stages_and_epochs():
    """Zero for the first half then linear; 0 to 1 over the epochs, and 1 if there is but one."""
    assert [stage_weight(p) for p in (0, 0.5, 0.75, 1)] == [0, 0, 0.5, 1]
    assert stage_weight(0.6, start=0.2) == pytest.approx(0.5)
    assert [epoch_weight(p, epochs=3) for p in (0, 0.32, 0.34, 0.65, 0.67, 1)] == [
        0,
        0,
        0.5,
        0.5,
        1,
        1,
    ]
    assert [epoch_weight(p, epochs=1) for p in (0, 1)] == [1, 1]


def test_restored_and_unasked():
    first, second = EntropyGuided(), EntropyGuided()
    first.step(torch.tensor(0.5))
    second.load_state_dict(first.state_dict())
    assert first.step(torch.tensor(0.5)) == second.step(torch.tensor(0.5)) > 0
    with FakeTensorMode():
        EntropyGuided().step(torch.empty(()))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="initial: expected a number >= 0 and <= 1, got 2"):
        EntropyGuided(initial=2.0)
    with pytest.raises(ValueError, match="start"):
        stage_weight(0.5, start=1.0)
    with pytest.raises(ValueError, match="epochs: expected a number >= 1, got 0"):
        epoch_weight(0.5, epochs=0)
