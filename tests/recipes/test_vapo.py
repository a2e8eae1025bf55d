from __future__ import annotations

import pytest
import torch

from entropy_ext import TokenStats, recipes
from entropy_ext.rl.advantages import group_mean
from tests.recipe_runs import loss, make_logits, make_rollout, prepare


def _stats(logp):
    return TokenStats(logp, torch.zeros_like(logp), torch.zeros_like(logp))


def test_defaults_are_the_paper_s():
    recipe = recipes.get("vapo")
    assert (recipe.clip_low, recipe.clip_high, recipe.nll_coef) == (0.2, 0.28, 0.1)
    assert (recipe.alpha, recipe.critic_decay, recipe.gamma) == (0.05, 1.0, 1.0)
    assert recipe.aggregation == "token-mean"
    assert recipe.sampling.group_size == 16
    assert recipe.value_pretraining == 50
    assert recipe.keep(make_rollout()).all()


def test_policy_and_critic_have_their_own_decay():
    """Three tokens, values .2 .6 .4, reward 1: returns 1 whatever the policy's λ of 0.5 gives."""
    rollout = make_rollout(
        mask=torch.ones(6, 4, dtype=torch.bool) & (torch.arange(4) < 3),
        values=torch.tensor([0.2, 0.6, 0.4, torch.nan], dtype=torch.float64).expand(6, 4),
        rewards=torch.ones(6, dtype=torch.float64),
    )
    targets = recipes.get("vapo", decay=0.5, whiten=False).targets(rollout)
    advantages = torch.tensor([0.45, 0.10, 0.60, 0], dtype=torch.float64).expand(6, 4)
    torch.testing.assert_close(targets.advantages, advantages)
    returns = torch.tensor([1.0, 1.0, 1.0, 0], dtype=torch.float64).expand(6, 4)
    torch.testing.assert_close(targets.returns, returns)


def test_the_decay_follows_each_response_s_length():
    """α = 0.5: four tokens give λ = 0.5, two give 0; catches one λ for the whole batch."""
    rollout = make_rollout(mask=torch.arange(4) < torch.tensor([4, 2, 4, 2, 4, 2])[:, None])
    got = recipes.get("vapo", alpha=0.5, whiten=False).targets(rollout).advantages
    half, none = (
        recipes.get("vapo", decay=decay, whiten=False).targets(rollout).advantages
        for decay in (0.5, 0.0)
    )
    torch.testing.assert_close(got[::2], half[::2])
    torch.testing.assert_close(got[1::2], none[1::2])
    assert (half - none)[1::2].abs().max() > 0.1


def test_advantages_are_whitened_over_tokens():
    rollout = make_rollout()
    advantages = recipes.get("vapo").targets(rollout).advantages[rollout.mask]
    assert advantages.mean().item() == pytest.approx(0, abs=1e-12)
    assert advantages.std().item() == pytest.approx(1)


@pytest.mark.parametrize(("right", "mean"), [([1, 0], 1.5), ([1, 1], 2.0), ([0, 0], 0.0)])
def test_likelihood_term_is_a_mean_over_right_tokens(right, mean):
    """logp −1, −2 and −3 in responses of two tokens and one; the batch has three tokens."""
    rollout = make_rollout().rows(slice(0, 2))
    logp = torch.tensor([[-1.0, -2.0, 0, 0], [-3.0, 0, 0, 0]], dtype=torch.float64)
    rollout = rollout.replace(
        mask=logp < 0, old_logp=logp, correct=torch.tensor(right, dtype=torch.bool)
    )
    losses = []
    for coef in (0.0, 0.1):
        recipe = recipes.get("vapo", nll_coef=coef)
        targets = recipe.targets(rollout)
        plan = recipe.prepare(None, rollout, targets)
        losses.append(plan.aggregate(recipe.token_loss(_stats(logp), rollout, targets, plan).loss))
    assert (losses[1] - losses[0]).item() == pytest.approx(0.1 * mean)


def test_neutral_values_leave_ppo():
    """Values 0, λ = 1, μ = 0, no whitening: every token's advantage is the reward."""
    rollout = make_rollout(values=torch.zeros(6, 4, dtype=torch.float64))
    recipe = recipes.get("vapo", decay=1.0, nll_coef=0, whiten=False)
    _, targets, plan = prepare(recipe, make_logits(), rollout)
    expected = torch.where(rollout.mask, rollout.rewards[:, None], 0.0)
    torch.testing.assert_close(targets.advantages, expected)
    assert plan.coefficients == {}


def test_value_clip_is_an_option():
    rollout = make_rollout()
    values = rollout.values + 1.0
    losses = []
    for clip in (None, 0.2):
        recipe = recipes.get("vapo", value_clip=clip)
        targets = recipe.targets(rollout)
        losses.append(recipe.value_loss(values, rollout, targets))
    assert losses[0].metrics["value_clip"] == 0
    assert losses[1].metrics["value_clip"] > 0
    assert (losses[1].loss >= losses[0].loss).all()
    assert losses[1].loss.sum() > losses[0].loss.sum()


def test_arguments_without_a_meaning_are_refused():
    with pytest.raises(TypeError, match="recipe vapo has no singleton"):
        recipes.get("vapo", singleton="reward")


def test_pre_training_can_be_set():
    assert recipes.get("vapo", value_pretraining=3).value_pretraining == 3
    with pytest.raises(ValueError, match="value_pretraining"):
        recipes.get("vapo", value_pretraining=-1)


def test_with_the_group_mean_for_values_it_is_a_clipped_group_baseline():
    """λ = 1 and a value of the group's mean reward at every token: A = r − mean_g r."""
    rollout, logits = make_rollout(), make_logits()
    baseline = rollout.rewards - group_mean(
        rollout.rewards, rollout.prompt, torch.ones(6, 1, dtype=torch.bool), singleton="zero"
    ).squeeze(-1)
    rollout = rollout.replace(values=baseline[:, None].expand(6, 4))
    recipe = recipes.get("vapo", decay=1.0, nll_coef=0, whiten=False)
    expected = group_mean(rollout.rewards, rollout.prompt, rollout.mask)
    prepared = prepare(recipe, logits, rollout)
    torch.testing.assert_close(prepared.targets.advantages, expected, rtol=0, atol=1e-12)
    dapo = recipes.get("dapo", overlong_factor=0)
    theirs = prepare(dapo, logits, rollout)._replace(targets=prepared.targets)
    torch.testing.assert_close(loss(recipe, logits, prepared), loss(dapo, logits, theirs))
