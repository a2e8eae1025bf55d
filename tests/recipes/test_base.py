from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import recipes, token_stats
from entropy_ext.recipes import Recipe, StepActions, Targets
from entropy_ext.rl import Rollout, count

B, T, V = 6, 4, 11


def _rollout(dtype=torch.float64, **changes):
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([4, 1, 3, 2, 4, 2])
    fields = {
        "tokens": torch.randint(0, V, (B, T), generator=generator),
        "mask": torch.arange(T) < lengths[:, None],
        "rewards": torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], dtype=dtype),
        "prompt": torch.tensor([0, 1, 0, 1, 0, 2]),
        "old_logp": -2.4 + 0.3 * torch.randn(B, T, generator=generator, dtype=dtype),
        "max_length": T,
        "step": 0,
        "progress": 0.0,
        "correct": torch.tensor([True, False, False, True, True, False]),
    }
    return Rollout(**(fields | changes))


def _logits(dtype=torch.float64):
    return torch.randn(B, T, V, generator=torch.Generator().manual_seed(4), dtype=dtype)


def _loss(recipe, logits, rollout):
    targets = recipe.targets(rollout)
    plan = recipe.prepare(None, rollout, targets)
    stats = token_stats(logits, rollout.tokens, mask=rollout.mask)
    return plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)


def test_grpo_defaults_are_the_documented_ones():
    """The published comparison depends on these; a silent change would alter every baseline."""
    recipe = recipes.get("grpo")
    assert (recipe.clip_low, recipe.clip_high, recipe.dual_clip) == (0.2, 0.2, None)
    assert recipe.aggregation == "seq-mean-token-mean"
    assert recipe.entropy_coef == 0
    assert recipe.whole_sequences
    assert recipe.sampling.refill == 0


def test_grpo_loss_written_out():
    """The whole chain against the formulas, one token at a time in plain Python."""
    rollout, logits = _rollout(), _logits()
    logp = logits.log_softmax(-1).gather(-1, rollout.tokens[..., None]).squeeze(-1)
    groups = {0: [1.0, 0.0, 1.0], 1: [0.0, 1.0], 2: [0.0]}
    per_sequence = []
    for i in range(B):
        rewards = groups[rollout.prompt[i].item()]
        mean = sum(rewards) / len(rewards)
        spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / max(len(rewards) - 1, 1))
        advantage = (rollout.rewards[i].item() - mean) / (spread + 1e-6)
        terms = []
        for t in range(int(rollout.lengths[i])):
            ratio = math.exp(logp[i, t].item() - rollout.old_logp[i, t].item())
            bounded = min(max(ratio, 0.8), 1.2)
            terms.append(max(-advantage * ratio, -advantage * bounded))
        per_sequence.append(sum(terms) / len(terms))
    expected = sum(per_sequence) / B
    assert _loss(recipes.get("grpo"), logits, rollout).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"aggregation": "token-mean", "entropy_coef": 0.01}])
def test_gradient_matches_finite_differences(options):
    """Through token_stats to the logits; catches a detached or doubled path, entropy included."""
    recipe, rollout = recipes.get("grpo", **options), _rollout()
    logits = _logits().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(recipe, logits, rollout), logits)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5)).double()
    with torch.no_grad():
        step = 1e-6 * direction
        ahead = _loss(recipe, logits + step, rollout)
        behind = _loss(recipe, logits - step, rollout)
    slope = (ahead - behind).item() / 2e-6
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-6)
    assert abs(slope) > 1e-3


def test_entropy_bonus_pushes_entropy_up():
    recipe = recipes.get("grpo", entropy_coef=0.1, aggregation="token-mean")
    rollout = _rollout(rewards=torch.zeros(B, dtype=torch.float64))
    logits = _logits().requires_grad_()
    loss = _loss(recipe, logits, rollout)
    stats = token_stats(logits, rollout.tokens, mask=rollout.mask)
    mean_entropy = stats.entropy.sum() / count(rollout.mask, "token-mean")
    assert loss.item() == pytest.approx(-0.1 * mean_entropy.item())
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(-0.1 * mean_entropy, logits)
    torch.testing.assert_close(gradient, expected)


def test_nothing_to_learn_gives_zero():
    """All-equal groups and groups of one: exactly 0, not a rounding residue over eps."""
    for changes in (
        {"rewards": torch.full((B,), 0.1, dtype=torch.float64)},
        {"prompt": torch.arange(B)},
    ):
        logits = _logits().requires_grad_()
        loss = _loss(Recipe(), logits, _rollout(**changes))
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_impossible_tokens_are_counted_and_move_nothing():
    """One token at −inf: its row gets no gradient, every other row the gradient it had before."""
    rollout = _rollout(mask=torch.ones(B, T, dtype=torch.bool))
    recipe = recipes.get("grpo", entropy_coef=0.01)
    targets = recipe.targets(rollout)
    plan = recipe.prepare(None, rollout, targets)
    gradients, counted = [], []
    for impossible in (False, True):
        logits = _logits()
        if impossible:
            logits[0, 0] = -torch.inf
            logits[0, 0, (rollout.tokens[0, 0] + 1) % V] = 0.0
        logits.requires_grad_()
        loss, metrics = recipe.token_loss(
            token_stats(logits, rollout.tokens), rollout, targets, plan
        )
        plan.aggregate(loss).backward()
        counted.append(metrics["nonfinite_logp"].item())
        gradients.append(logits.grad)
    assert counted == [0, 1]
    assert gradients[0][0, 0].abs().max() > 0
    gradients[0][0, 0] = 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


class Weighted(Recipe):
    """A recipe as later papers will write them: one hook, its weights made in prepare."""

    name = "weighted"
    needs = frozenset({"old_entropy"})

    def prepare(self, stats, rollout, targets, *, group=None):
        from dataclasses import replace

        plan = super().prepare(stats, rollout, targets, group=group)
        return replace(plan, weights=rollout.old_entropy)


def test_plan_weights_scale_the_policy_loss_only():
    weights = torch.rand(B, T, generator=torch.Generator().manual_seed(6)).double()
    rollout = _rollout(old_entropy=weights)
    plain, weighted = Recipe(), Weighted()
    targets = plain.targets(rollout)
    stats = token_stats(_logits(), rollout.tokens, mask=rollout.mask)
    plan = plain.prepare(None, rollout, targets)
    expected = plain.token_loss(stats, rollout, targets, plan).loss * weights
    plan = weighted.prepare(None, rollout, targets)
    torch.testing.assert_close(weighted.token_loss(stats, rollout, targets, plan).loss, expected)
    half = plan.rows(slice(0, 3))
    assert torch.equal(half.weights, weights[:3])


def test_missing_field_names_recipe_and_field():
    rollout = _rollout()
    with pytest.raises(ValueError, match=r"recipe weighted needs Rollout\.old_entropy"):
        Weighted().targets(rollout)
    with pytest.raises(ValueError, match=r"recipe weighted needs Rollout\.old_entropy"):
        Weighted().prepare(None, rollout, Targets(torch.zeros(B, T)))
    without = _rollout(correct=None)
    with pytest.raises(ValueError, match=r"recipe dapo needs Rollout\.correct"):
        recipes.get("dapo").keep(without)


def test_neutral_hooks():
    recipe, rollout = Recipe(), _rollout()
    stats = recipes.PromptStats(attempts=torch.tensor([3, 0, 9]), successes=torch.tensor([1, 0, 9]))
    assert recipe.select_prompts(stats, 0.5).tolist() == [1, 1, 1]
    assert recipe.shape_rewards(rollout) is rollout.rewards
    assert recipe.keep(rollout).all()
    assert recipe.after_step({"reward": 1.0}) == StepActions(False, False)
    recipe.load_state_dict(recipe.state_dict())
    with pytest.raises(ValueError, match="recipe grpo: expected the state of none, got integral"):
        recipe.load_state_dict({"integral": 1.0})
    with pytest.raises(NotImplementedError, match="recipe grpo has no value function"):
        recipe.value_loss(rollout.old_logp, rollout, recipe.targets(rollout))


def test_get_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"recipe: expected one of grpo, dapo, .*got 'grop'"):
        recipes.get("grop")
    with pytest.raises(TypeError, match="clip_hihg"):
        recipes.get("dapo", clip_hihg=0.3)
    with pytest.raises(ValueError, match="minibatches: expected a number >= 1, got 0"):
        recipes.get("grpo", minibatches=0)
    with pytest.raises(ValueError, match="aggregation: expected one of token-mean"):
        recipes.get("grpo", aggregation="mean")


def test_options_override_the_recipe_s_own():
    recipe = recipes.get("dapo", clip_high=0.3, minibatches=2, aggregation="seq-mean-token-mean")
    assert (recipe.clip_high, recipe.minibatches) == (0.3, 2)
    assert recipe.whole_sequences
    assert not recipes.get("dapo").whole_sequences
    assert recipes.get("dapo").minibatches == 16
