from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropy_ext import TokenStats, recipes, token_stats
from entropy_ext.rl import Rollout
from entropy_ext.rl.advantages import entropy_neutral
from entropy_ext.rl.advantages.entropy_neutral import step_size_squared

STATES, ACTIONS, SAMPLES = 40, 7, 16


def batch(seed: int) -> tuple[Tensor, Rollout, recipes.Targets]:
    """A table of policies, and sampled actions that learning makes more certain."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(STATES, ACTIONS, generator=generator, dtype=torch.float64)
    tokens = torch.multinomial(logits.softmax(-1), SAMPLES, True, generator=generator)
    # Likely actions are the good ones: the entropy falls under plain policy gradient.
    advantages = logits.log_softmax(-1).gather(-1, tokens)
    advantages = advantages - advantages.mean(-1, keepdim=True)
    mask = torch.rand(STATES, SAMPLES, generator=generator) < 0.9
    rollout = Rollout(
        tokens=tokens,
        mask=mask,
        rewards=torch.zeros(STATES, dtype=torch.float64),
        prompt=torch.arange(STATES),
        old_logp=logits.log_softmax(-1).gather(-1, tokens),
        max_length=SAMPLES,
        step=0,
        progress=0.0,
    )
    return logits, rollout, recipes.Targets(torch.where(mask, advantages, 0.0))


def statistics(logits: Tensor, rollout: Rollout, **options: object) -> TokenStats:
    rows = logits[:, None].expand(STATES, SAMPLES, ACTIONS)
    return token_stats(rows, rollout.tokens, mask=rollout.mask, **options)


def entropy_after(
    recipe: recipes.Recipe,
    logits: Tensor,
    rollout: Rollout,
    targets: recipes.Targets,
    eta: float,
) -> float:
    """Summed entropy change, each token counting in its state, of one gradient step."""
    plan = recipe.prepare(statistics(logits, rollout, extras=True), rollout, targets)
    leaf = logits.clone().requires_grad_()
    loss = recipe.token_loss(statistics(leaf, rollout), rollout, targets, plan)
    (gradient,) = torch.autograd.grad(plan.aggregate(loss.loss), leaf)
    before, after = (
        torch.distributions.Categorical(logits=z).entropy()
        for z in (logits, logits - eta * gradient)
    )
    return float((after - before).sum())


def test_a_step_changes_the_entropy_in_second_order_only() -> None:
    """Catches a wrong sign, scale or slope: any of them leaves a change linear in the step."""
    logits, rollout, targets = batch(0)
    plain = recipes.get("grpo", aggregation="token-mean")
    neutral = recipes.get("entropy_neutral")
    for eta in (1.0, 0.1):
        assert entropy_after(plain, logits, rollout, targets, eta) < -0.05 * eta
    whole, tenth = (entropy_after(neutral, logits, rollout, targets, eta) for eta in (1e-1, 1e-2))
    assert abs(tenth) < 2e-3 * abs(entropy_after(plain, logits, rollout, targets, 1e-2))
    assert whole / tenth == pytest.approx(100, rel=0.1)


def test_a_target_is_met_to_first_order() -> None:
    """Catches a target per batch where one per token is promised."""
    logits, rollout, targets = batch(1)
    eta = 1e-4
    for target in (0.05, -0.1):
        recipe = recipes.get("entropy_neutral", target=target)
        # The loss is a mean over tokens: a step of eta moves each by eta over their number.
        measured = entropy_after(recipe, logits, rollout, targets, eta)
        assert measured == pytest.approx(eta * target, rel=1e-3)


def test_without_strength_it_is_grpo() -> None:
    """Catches a projection that acts although it is switched off."""
    logits, rollout, targets = batch(2)
    recipe = recipes.get("entropy_neutral", strength=0.0)
    plan = recipe.prepare(statistics(logits, rollout, extras=True), rollout, targets)
    torch.testing.assert_close(plan.tokens["advantages"], targets.advantages, rtol=0, atol=0)


def test_half_the_strength_leaves_half_the_change() -> None:
    """Catches a strength that scales something else."""
    logits, rollout, targets = batch(3)
    changes = [
        entropy_after(recipes.get("entropy_neutral", strength=s), logits, rollout, targets, 1e-5)
        for s in (0.0, 0.5)
    ]
    assert changes[1] == pytest.approx(changes[0] / 2, rel=1e-3)


@pytest.mark.parametrize("dual_clip", [None, 1.3])
def test_clipped_tokens_keep_their_advantages(dual_clip: float | None) -> None:
    """Catches tokens without gradient that are counted on to balance the others."""
    logits, rollout, targets = batch(4)
    stale = rollout.old_logp.clone()
    stale[::2] -= 0.5  # ratio 1.65: clipped where the advantage is positive
    rollout = rollout.replace(old_logp=stale)
    recipe = recipes.get("entropy_neutral", dual_clip=dual_clip)
    plan = recipe.prepare(statistics(logits, rollout, extras=True), rollout, targets)
    clipped = torch.zeros_like(rollout.mask)
    # A dual clip holds the others.
    clipped[::2] = True if dual_clip else targets.advantages[::2] > 0
    clipped &= rollout.mask
    assert clipped.any()
    after = plan.tokens["advantages"]
    torch.testing.assert_close(after[clipped], targets.advantages[clipped], rtol=0, atol=0)
    assert (after[rollout.mask & ~clipped] != targets.advantages[rollout.mask & ~clipped]).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0, 1), target=st.floats(-1, 1))
def test_the_constraint_holds_and_nothing_nearer_meets_it(
    seed: int, strength: float, target: float
) -> None:
    """Catches a projection that misses the target, or one along another metric."""
    generator = torch.Generator().manual_seed(seed)
    a, c, noise = torch.randn(3, 4, 9, generator=generator, dtype=torch.float64)
    size = torch.rand(4, 9, generator=generator, dtype=torch.float64)
    mask = torch.rand(4, 9, generator=generator) < 0.8
    mask[0, 0] = True
    projected = entropy_neutral(a, c, size, mask, strength=strength, target=target, damping=0.01)
    assert not projected[~mask].any()
    a, c, noise = (torch.where(mask, x, 0.0) for x in (a, c, noise))
    wanted = (1 - strength) * (c * a).sum() + strength * int(mask.sum()) * target
    torch.testing.assert_close((c * projected).sum(), wanted, rtol=1e-10, atol=1e-10)
    # Any other point of the constraint: move within it.
    along = noise - c * (c * noise).sum() / c.square().sum()
    metric = size + 0.01
    first_variation = (metric * (projected - a) * along).sum()
    torch.testing.assert_close(
        first_variation, torch.zeros_like(first_variation), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["empty", "certain", "constant"])
def test_no_nan_where_nothing_can_change(kind: str) -> None:
    """Catches 0/0 in κ: empty masks, certain policies, advantages of zero."""
    mask = torch.full((2, 3), kind != "empty")
    a = torch.full((2, 3), 0.0 if kind == "constant" else 1.0)
    c = torch.zeros(2, 3)
    result = entropy_neutral(a, torch.where(mask, c, torch.nan), c, mask)
    torch.testing.assert_close(result, torch.where(mask, a, 0.0), rtol=0, atol=0)


def test_step_size_of_almost_certain_tokens_stays_positive() -> None:
    """Catches 1 − 2p + Σp² in float32, which is noise, negative at times, where p is near 1."""
    logits = torch.tensor([[0.0, -9.0, -9.5], [0.0, -30.0, -31.0], [1.0, 0.5, 0.0]])
    tokens = torch.tensor([0, 0, 1])
    stats = token_stats(logits, tokens, extras=True)
    assert stats.collision is not None
    p = logits.double().softmax(-1)
    truth = (torch.nn.functional.one_hot(tokens, 3) - p).square().sum(-1)
    ours = step_size_squared(stats.logp, stats.collision).double()
    assert abs(float(ours[0] / truth[0]) - 1) < 0.4  # Σ_{j≠a} p² is lost, at most half of it
    assert 0 <= float(ours[1]) < 1e-12
    torch.testing.assert_close(ours[2], truth[2], rtol=1e-6, atol=0)
