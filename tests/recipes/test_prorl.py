from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.recipes import StepActions
from entropy_ext.rl.losses import kl_penalty
from entropy_ext.rl.rewards import cosine_length, truncated_reward
from tests.recipe_cases import assert_same
from tests.recipe_runs import loss, make_logits, make_rollout, make_values, prepare


def test_versions():
    first, second = recipes.get("prorl"), recipes.get("prorl", version="v2")
    assert (first.clip_low, first.clip_high, second.clip_low, second.clip_high) == (
        (0.2, 0.4, 0.2, 0.27)
    )
    assert (first.kl_estimator, second.kl_estimator, second.kl_max) == ("k3", "k2", 10.0)
    assert (first.kl_coef, second.kl_coef) == (1e-4, 1e-4)
    assert (first.reset_optimizer, second.reset_optimizer) == (True, False)
    assert (first.resets.every, first.resets.patience) == (None, 3)
    assert (second.resets.every, second.resets.patience) == (500, None)
    assert first.needs == second.needs == {"correct", "ref_logp"}
    assert (first.sampling.temperature, first.sampling.group_size) == (1.2, 16)
    assert first.aggregation == "token-mean"
    assert recipes.get("prorl", version="v2", clip_high=0.3).clip_high == 0.3
    with pytest.raises(ValueError, match="version: expected one of v1, v2, got 'v3'"):
        recipes.get("prorl", version="v3")


@pytest.mark.parametrize(
    ("difference", "k1", "k2", "k3"),
    [(0.5, 0.5, 0.125, 0.1065307), (-0.5, -0.5, 0.125, 0.1487213), (12.0, 10.0, 10.0, 10.0)],
)
def test_divergence_estimates_by_hand(difference, k1, k2, k3):
    """Bounded to 10 nats; unbounded, 12 gives 12, 72 and 11.0000061."""
    logp = torch.tensor([[difference]], dtype=torch.float64)
    ref, mask = torch.zeros_like(logp), torch.ones(1, 1, dtype=torch.bool)
    raw = {12.0: (12.0, 72.0, 11.0000061)}.get(difference, (k1, k2, k3))
    for estimator, bounded, free in zip(("k1", "k2", "k3"), (k1, k2, k3), raw, strict=True):
        at_most = kl_penalty(logp, ref, mask, estimator=estimator, max_value=10.0).loss
        assert at_most.item() == pytest.approx(bounded, abs=1e-7)
        assert kl_penalty(logp, ref, mask, estimator=estimator).loss.item() == pytest.approx(
            free, abs=1e-7
        )


def test_v2_bounds_its_estimate():
    """A reference 12 nats away adds 10·kl_coef per token and no gradient; 2 nats away adds 2."""
    rollout = make_rollout(rewards=torch.zeros(6, dtype=torch.float64))
    recipe, logits = recipes.get("prorl", version="v2"), make_logits()
    logp = logits.log_softmax(-1).gather(-1, rollout.tokens[..., None]).squeeze(-1)
    for distance, expected in ((12.0, 10.0), (2.0, 2.0)):
        far = rollout.replace(ref_logp=logp - distance)
        prepared = prepare(recipe, logits, far)
        at = logits.clone().requires_grad_()
        total = loss(recipe, at, prepared)
        assert total.item() == pytest.approx(1e-4 * expected)
        (gradient,) = torch.autograd.grad(total, at)
        assert (gradient.abs().max() > 0) == (distance == 2.0)


def test_after_a_reset_the_divergence_and_its_gradient_are_zero():
    for version in ("v1", "v2"):
        logits = make_logits()
        rollout = make_rollout()
        logp = logits.log_softmax(-1).gather(-1, rollout.tokens[..., None]).squeeze(-1)
        rollout = rollout.replace(ref_logp=logp)
        gradients = []
        for kl_coef in (0.0, 1.0):
            recipe = recipes.get("prorl", version=version, kl_coef=kl_coef)
            at = logits.clone().requires_grad_()
            total = loss(recipe, at, prepare(recipe, logits, rollout), make_values())
            gradients.append((total.detach(), torch.autograd.grad(total, at)[0]))
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-14)


def test_without_penalty_v1_is_dapo_with_a_wider_clip():
    rollout, logits = make_rollout(), make_logits()
    ours = recipes.get("prorl", kl_coef=0.0)
    dapo = recipes.get("dapo", clip_high=0.4, overlong_factor=0)
    total, expected = (loss(r, logits, prepare(r, logits, rollout)) for r in (ours, dapo))
    assert total.item() == expected.item()


def test_without_penalty_v2_is_reinforce_pp_with_a_wider_clip():
    ours = recipes.get("prorl", version="v2", kl_coef=0.0)
    assert_same(ours, recipes.get("reinforce_pp", baseline="group", clip_high=0.27))


def test_v2_whitens_over_the_tokens_of_the_batch():
    """Group [1, 0] of lengths 1 and 3, an all-right one of 2: the latter's 0 becomes 0.447."""
    mask = torch.arange(4) < torch.tensor([1, 3, 2, 0, 0, 0])[:, None]
    rollout = make_rollout(
        mask=mask,
        prompt=torch.tensor([0, 0, 1, 2, 3, 4]),
        rewards=torch.tensor([1.0, 0, 1, 0, 0, 0], dtype=torch.float64),
    )
    advantages = recipes.get("prorl", version="v2").targets(rollout).advantages
    expected = torch.tensor([1.7888544, -0.8944272, 0.4472136, 0, 0, 0], dtype=torch.float64)
    expected = torch.where(mask, expected[:, None], 0.0)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-7)


def test_v1_resets_when_the_held_out_score_stalls():
    recipe = recipes.get("prorl", reset_patience=2)
    scores = [0.5, None, 0.5, None, 0.4, 0.3]
    metrics = [{} if s is None else {"held_out": s} for s in scores]
    got = [recipe.after_step(m) for m in metrics]
    assert got == [StepActions()] * 4 + [StepActions(True, True), StepActions()]


def test_v2_resets_on_its_period_or_on_a_spike_and_keeps_the_optimizer():
    recipe = recipes.get("prorl", version="v2", reset_every=3, reset_kl=1.0)
    got = [recipe.after_step({"kl_reference": kl}) for kl in (0.1, 2.0, 0.1, 0.1, 0.1, 0.1)]
    due = [False, True, False, False, True, False]
    assert got == [StepActions(reset, False) for reset in due]


def test_resets_that_are_given_replace_the_version_s():
    given = recipes.get("prorl", reset_every=6).resets
    assert (given.every, given.patience, given.kl_limit) == (6, None, None)
    for name in ("reset_every", "reset_patience", "reset_kl"):
        with pytest.raises(ValueError, match=f"{name}: expected a number >.* got 0"):
            recipes.get("prorl", **{name: 0})


def test_v2_with_the_filter_on_the_sampler_s_ratio():
    """NeMo-RL's recipe: a token whose π_old/μ is beyond [0.5, 5] has no policy loss; KL stays."""
    recipe, logits = recipes.compose("prorl", "masked_is", version="v2"), make_logits()
    plain = recipes.get("prorl", version="v2")
    rollout = make_rollout()
    logp = logits.log_softmax(-1).gather(-1, rollout.tokens[..., None]).squeeze(-1)
    rollout, far = rollout.replace(old_logp=logp), logp.clone()
    far[0, 1], far[2, 0] = far[0, 1] + 1.0, far[2, 0] - 2.0
    rollout = rollout.replace(rollout_logp=far)
    one, other = (prepare(x, logits, rollout) for x in (recipe, plain))
    expected = torch.where(rollout.mask, (rollout.old_logp - far).exp(), 0.0)
    expected[0, 1] = expected[2, 0] = 0
    torch.testing.assert_close(one.plan.weights, expected)
    assert (recipe.clip_high, recipe.kl_estimator, recipe.reset_optimizer) == (0.27, "k2", False)
    at = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(recipe, at, one), at)
    (whole,) = torch.autograd.grad(loss(plain, at, other), at)
    # What is left of the two tokens is the divergence's.
    assert 0 < slope[0, 1].abs().max() < 0.01 * whole[0, 1].abs().max()
    torch.testing.assert_close(slope[1], whole[1])
    assert whole[1].abs().max() > 1e-3


def test_groups_without_a_signal_are_dropped():
    rollout = make_rollout(prompt=torch.tensor([0, 0, 1, 1, 2, 3]))
    assert recipes.get("prorl").keep(rollout).tolist() == [True, True, True, True, False, False]
    alike = rollout.replace(correct=torch.tensor([True, True, False, True, True, False]))
    assert recipes.get("prorl").keep(alike).tolist() == [False, False, True, True, False, False]


def test_the_cosine_term_follows_its_schedule():
    recipe = recipes.get("prorl", version="v2", cosine_coef=0.5, cosine_on=2, cosine_off=3)
    on = []
    for step in range(7):
        rollout = make_rollout(step=step)
        change = recipe.shape_rewards(rollout) - rollout.rewards
        on.append(bool((change != 0).any()))
        if on[-1]:
            # Lengths 4, 1, 3, 2, 4, 2 of at most 4.
            quarter = (1 - math.cos(math.pi / 4)) / 2
            expected = [-0.5 * x for x in (1, quarter, 1 - quarter, 0.5, 1, 0.5)]
            assert change.tolist() == pytest.approx(expected, abs=1e-6)
    assert on == [True, True, False, False, False, True, True]


def test_cosine_length_and_truncated_reward_by_hand():
    lengths = torch.tensor([0, 5, 10, 12])
    got = cosine_length(lengths, 10, shortest=0.2, longest=-0.6)
    assert got.tolist() == pytest.approx([0.2, -0.2, -0.6, -0.6], abs=1e-6)
    rewards, truncated = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([True, False, True])
    assert truncated_reward(rewards, truncated).tolist() == [0.0, 1.0, 0.0]
    assert truncated_reward(rewards, truncated, coef=0.25).tolist() == [0.25, 1.0, 0.0]
    with pytest.raises(ValueError, match="coef: expected a number >= 0 and <= 1"):
        truncated_reward(rewards, truncated, coef=-1.0)
