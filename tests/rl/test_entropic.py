from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl import ppo_clip
from entropy_ext.rl.aggregate import aggregate
from entropy_ext.rl.controllers import EntropyPI
from entropy_ext.rl.losses import confidence_pull


def test_case():
    """π = [.99, .5, .97], A = [1, 1, −1], τ = .95, α = .2: −1/3 − .2·2/2."""
    logp = torch.tensor([[0.99, 0.5, 0.97]], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    high = logp.detach() > math.log(0.95)
    policy, _ = ppo_clip(logp, logp.detach(), advantages, mask)
    pull = confidence_pull(logp, logp.detach(), advantages, high)
    assert aggregate(policy, mask, "token-mean").item() == pytest.approx(-0.3333, abs=5e-5)
    total = aggregate(policy, mask, "token-mean") + 0.2 * aggregate(pull, high, "token-mean")
    assert total.item() == pytest.approx(-0.5333, abs=5e-5)
    # Positive tokens count 1 + α, negative ones 1 − α, where all three are counted alike.
    (gradient,) = torch.autograd.grad((policy + 0.2 * pull).sum(), logp)
    assert gradient[0].tolist() == pytest.approx([-1.2, -1.0, 0.8])


def test_pull_is_not_clipped_and_survives_the_impossible():
    """A token whose clipped loss has no gradient still moves."""
    logp = torch.tensor([[-0.01, -math.inf, math.nan]], requires_grad=True)
    old_logp = torch.tensor([[-1.01, -1.0, math.nan]])
    mask = torch.tensor([[True, True, False]])
    advantages = torch.tensor([[1.0, 1.0, math.nan]])
    pull = confidence_pull(logp, old_logp, advantages, mask)
    pull.sum().backward()
    assert pull[0].tolist() == pytest.approx([-math.e, -1.0, 0.0])
    assert logp.grad[0].tolist() == pytest.approx([-math.e, 0.0, 0.0])


def _alphas(controller, entropies):
    return [controller.step(torch.tensor(h, dtype=torch.float64)).item() for h in entropies]


def test_controller_case():
    """The integral before the update enters; catches one updated first, and a flipped sign."""
    controller = EntropyPI(0.1, scale=0.5)
    assert _alphas(controller, [0.3]) == pytest.approx([0.2])
    assert controller.state_dict()["integral"].item() == pytest.approx(0.1)
    assert _alphas(controller, [0.05]) == pytest.approx([-0.049])
    assert controller.state_dict()["integral"].item() == pytest.approx(0.075)


def _plant(controller, drift=-0.05, gain=0.5, steps=400):
    """Entropy that drifts down by itself and falls by `gain` per unit of α."""
    entropy = torch.tensor(0.5, dtype=torch.float64)
    for _ in range(steps):
        entropy = entropy + drift - gain * controller.step(entropy)
    return entropy.item()


def test_integral_removes_the_steady_error():
    """P alone settles where gain·kp·e = drift; with I the error goes to 0."""
    assert _plant(EntropyPI(0.4, ki=0.0)) == pytest.approx(0.4 - 0.05 / 0.5, abs=1e-9)
    assert _plant(EntropyPI(0.4, ki=0.1)) == pytest.approx(0.4, abs=1e-9)


def test_anti_windup():
    """A long saturation: the released integral takes as long to unwind, the held one does not."""
    held, free = EntropyPI(0.1, ki=0.1, anti_windup=True), EntropyPI(0.1, ki=0.1)
    for controller in (held, free):
        assert _alphas(controller, [3.0] * 50) == [1.0] * 50
    assert free.state_dict()["integral"].item() == pytest.approx(145)
    assert held.state_dict()["integral"].item() == 0
    assert _alphas(free, [0.05])[0] == 1.0
    assert _alphas(held, [0.05])[0] == pytest.approx(-0.05)
    # Saturated, but the error pulls back inside: the integral must move.
    inward = EntropyPI(0.1, ki=1.0, anti_windup=True)
    inward.load_state_dict({"integral": torch.tensor(5.0, dtype=torch.float64)})
    assert _alphas(inward, [0.0]) == [1.0]
    assert inward.state_dict()["integral"].item() == pytest.approx(4.9)
    # However small the push outwards.
    assert _alphas(inward, [0.11]) == [1.0]
    assert inward.state_dict()["integral"].item() == pytest.approx(4.9)


def test_restored_controller_continues_alike():
    entropies = [0.3, 0.05, 0.2, 0.6]
    whole = _alphas(EntropyPI(), entropies)
    first, second = EntropyPI(), EntropyPI()
    start = _alphas(first, entropies[:2])
    second.load_state_dict(first.state_dict())
    assert start + _alphas(second, entropies[2:]) == whole


def test_neither_asks_the_device():
    with FakeTensorMode():
        controller = EntropyPI(anti_windup=True)
        logp, other = torch.empty(1, 3, requires_grad=True), torch.empty(1, 3)
        pull = confidence_pull(logp, other, other, torch.empty(1, 3, dtype=torch.bool))
        (controller.step(torch.empty(())) * pull.sum()).backward()


def test_wrong_options_are_named():
    for option in ("limit", "scale"):
        with pytest.raises(ValueError, match=f"{option}: expected a number > 0, got 0"):
            EntropyPI(**{option: 0.0})
