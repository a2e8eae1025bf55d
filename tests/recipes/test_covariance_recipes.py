"""Clip-Cov and KL-Cov, from the rollout to the loss."""

from __future__ import annotations

import pytest
import torch

from entropy_ext import TokenStats, recipes
from entropy_ext.recipes import Targets
from entropy_ext.rl.losses import ppo_clip
from tests.recipe_runs import loss, make_logits, make_rollout, prepare

F64 = torch.float64


def _stats(logp):
    return TokenStats(logp, torch.zeros_like(logp), torch.zeros_like(logp))


def _step(recipe, logp, old_logp, advantages):
    """Plan and loss of one mini-batch of one response, every token its own."""
    mask = torch.ones(1, logp.shape[1], dtype=torch.bool)
    rollout = make_rollout().rows(slice(0, 1))
    width = {"mask": mask, "tokens": torch.zeros(mask.shape, dtype=torch.int64)}
    empty = dict.fromkeys(
        (
            "old_entropy",
            "ref_logp",
            "rollout_logp",
            "values",
            "teacher",
            "teacher_logp",
            "step_correct",
        )
    )
    rollout = rollout.replace(**width, **empty, old_logp=old_logp)
    targets = Targets(advantages)
    plan = recipe.prepare(_stats(logp.detach()), rollout, targets)
    return plan, recipe.token_loss(_stats(logp), rollout, targets, plan)


LOGP = torch.tensor([[-0.05, -4, -0.1, -6, -0.2]], dtype=F64)
ADVANTAGES = torch.tensor([[2.0, -0.5, -0.5, -0.5, -0.5]], dtype=F64)


def test_clip_cov_defaults_are_the_released_recipe():
    recipe = recipes.get("clip_cov")
    assert (recipe.clip_low, recipe.clip_high, recipe.dual_clip) == (1.0, 1.0, None)
    assert (recipe.fraction, recipe.bounds) == (2e-4, (1.0, 5.0))
    assert (recipe.minibatches, recipe.sampling.group_size) == (8, 8)
    assert (recipe.aggregation, recipe.statistics) == ("token-mean", "minibatch")


@pytest.mark.parametrize(
    ("variant", "coef", "fraction"), [("paper", 1.0, 2e-3), ("verl", 0.1, 2e-4)]
)
def test_kl_cov_variants(variant, coef, fraction):
    recipe = recipes.get("kl_cov", variant=variant)
    assert (recipe.cov_coef, recipe.fraction, recipe.penalty) == (coef, fraction, "abs")
    assert recipes.get("kl_cov", variant=variant, fraction=0.5).fraction == 0.5
    assert (recipe.minibatches, recipe.aggregation) == (8, "token-mean")
    with pytest.raises(TypeError, match="recipe kl_cov has no clip_high"):
        recipes.get("kl_cov", clip_high=0.3)
    assert recipes.get("kl_cov").cov_coef == 1.0


def test_kl_cov_by_hand():
    """0.1946799 without the penalty, 0.2071799 with it on the first token."""
    old = torch.tensor([[-0.1, -1.0, -2.0, -0.5]], dtype=F64)
    new = torch.tensor([[-0.05, -1.2, -1.5, -0.5]], dtype=F64)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=F64)
    plan, (loss, _) = _step(recipes.get("kl_cov"), new, old, advantages)
    assert plan.tokens["kl_cov"].tolist() == [[True, False, False, False]]
    assert plan.aggregate(loss).item() == pytest.approx(0.2071799, abs=1e-7)
    plan, (loss, _) = _step(recipes.get("kl_cov", cov_coef=0.0), new, old, advantages)
    assert plan.aggregate(loss).item() == pytest.approx(0.1946799, abs=1e-7)


def test_kl_cov_on_policy_is_plain_policy_gradient():
    logits, rollout = make_logits(), make_rollout()
    logp = logits.log_softmax(-1).gather(-1, rollout.tokens[..., None]).squeeze(-1)
    rollout = rollout.replace(old_logp=logp)
    recipe = recipes.get("kl_cov", fraction=0.5)
    _, targets, plan = prepare(recipe, logits, rollout)
    assert plan.tokens["kl_cov"].sum() == 8
    at = logp.clone().requires_grad_()
    loss = plan.aggregate(recipe.token_loss(_stats(at), rollout, targets, plan).loss)
    (gradient,) = torch.autograd.grad(loss, at)
    expected = torch.where(rollout.mask, -targets.advantages, 0.0) / 16
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_clip_cov_draws_one_of_two_and_keeps_the_denominator():
    recipe = recipes.get("clip_cov")
    seen = set()
    for _ in range(20):
        at = LOGP.clone().requires_grad_()
        plan, (loss, metrics) = _step(recipe, at, LOGP, ADVANTAGES)
        chosen = plan.tokens["clip_cov"]
        (gradient,) = torch.autograd.grad(plan.aggregate(loss), at)
        torch.testing.assert_close(gradient, torch.where(chosen, 0.0, -ADVANTAGES / 5))
        assert metrics["cov_clipped"] == 1
        seen.add(chosen.int().argmax().item())
    assert seen == {0, 3}


def test_clip_cov_passes_over_tokens_that_the_clip_holds():
    """Token 0 at a ratio of e, beyond 1.5, has no gradient to lose: token 3 is the one left."""
    old = LOGP - torch.tensor([[1.0, 0, 0, 0, 0]], dtype=F64)
    for seed in range(20):
        recipe = recipes.get("clip_cov", clip_high=0.5, seed=seed)
        plan, _ = _step(recipe, LOGP, old, ADVANTAGES)
        assert plan.tokens["clip_cov"].tolist() == [[False, False, False, True, False]]


def test_clip_cov_without_candidates_is_the_clipped_loss():
    """Equal advantages: every covariance is 0, outside (1, 5)."""
    recipe = recipes.get("clip_cov")
    ones = torch.ones_like(ADVANTAGES)
    plan, (loss, _) = _step(recipe, LOGP, LOGP - 0.1, ones)
    assert not plan.tokens["clip_cov"].any()
    expected = ppo_clip(LOGP, LOGP - 0.1, ones, plan.mask, clip_low=1.0, clip_high=1.0).loss
    assert torch.equal(loss, expected)


def test_the_draw_is_the_seed_s():
    def draws(seed):
        recipe = recipes.get("clip_cov", seed=seed)
        return [_step(recipe, LOGP, LOGP, ADVANTAGES)[0].tokens["clip_cov"] for _ in range(12)]

    first, again, other = draws(3), draws(3), draws(1000)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_groups_without_a_signal_are_dropped(name):
    rollout = make_rollout(prompt=torch.tensor([0, 0, 1, 1, 2, 3]))
    assert recipes.get(name).keep(rollout).tolist() == [True, True, True, True, False, False]


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_neutral_values_leave_policy_gradient_over_tokens(name):
    """No candidate, or no weight on the penalty, and no bound in reach: −A·ρ, averaged."""
    neutral = {"clip_cov": {"bounds": (1e9, 1e10), "clip_high": 1e9}, "kl_cov": {"cov_coef": 0.0}}
    logits, rollout = make_logits(), make_rollout()
    recipe = recipes.get(name, **neutral[name])
    parent = recipes.get("grpo", aggregation="token-mean", clip_low=1.0, clip_high=1e9)
    ours, theirs = (loss(r, logits, prepare(r, logits, rollout)) for r in (recipe, parent))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    logp = logits.log_softmax(-1).gather(-1, rollout.tokens[..., None]).squeeze(-1)
    advantages = parent.targets(rollout).advantages
    plain = -(advantages * (logp - rollout.old_logp).exp())[rollout.mask].mean()
    assert ours.item() == pytest.approx(plain.item(), abs=1e-12)
