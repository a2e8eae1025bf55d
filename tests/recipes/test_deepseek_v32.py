from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import Support, recipes, token_stats
from entropy_ext.recipes import Sampling
from tests.recipe_cases import assert_same, case, step, table

OLD = table([[-1.0, -1.0], [-1.0, -1.0]])
NEW = [[-2.0, -1.2], [-2.0, -1.2]]
FIELDS = {"old_logp": OLD, "rollout_logp": OLD, "ref_logp": table(NEW)}
ADVANTAGES = [[-1.0, -1.0], [1.0, 1.0]]
WIDE = {"clip_low": 1.0}


def _step(recipe, logp=NEW, **changes):
    return step(recipe, case([[1, 1], [1, 1]], **(FIELDS | changes)), logp, advantages=ADVANTAGES)


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, 0), (0.59, 0), (0.61, 1), (None, 1)])
def test_stale_wrong_sequences_are_left_out(threshold, kept):
    """Mean distance .6; the right sequence stays at any distance, and so does the divisor."""
    got = _step(recipes.get("deepseek_v32", off_policy_threshold=threshold, **WIDE))
    wrong, right = got.gradient
    expected = [math.exp(-1.0) / 4, math.exp(-0.2) / 4]
    assert wrong.tolist() == pytest.approx([kept * x for x in expected], abs=1e-12)
    assert right.tolist() == pytest.approx([-x for x in expected])
    assert got.metrics.get("off_policy", 0) == (0 if kept else 2)


def test_distance_is_to_the_sampler():
    """The trainer has not moved, the engines disagree: "trainer" must not see it."""
    changes = {"old_logp": table(NEW), "rollout_logp": OLD}
    sampler, trainer = (
        _step(recipes.get("deepseek_v32", behaviour=b), **changes) for b in ("sampler", "trainer")
    )
    assert sampler.gradient[0].abs().max() == 0
    assert trainer.gradient[0].tolist() == pytest.approx([0.25, 0.25])
    assert "rollout_logp" not in recipes.get("deepseek_v32", behaviour="trainer").needs


@pytest.mark.parametrize(
    ("old", "value", "slope"), [(-1.0, 0.367879, 1.0), (-1.5, 0.606531, 1.648721)]
)
def test_unbiased_divergence_stays_on_masked_sequences(old, value, slope):
    """logp −1, reference −2, A < 0 and far off the sampler: only the penalty is left."""
    fields = {
        name: table([[x]])
        for name, x in (("old_logp", old), ("ref_logp", -2.0), ("rollout_logp", 0.0))
    }
    recipe = recipes.get("deepseek_v32", kl_coef=1.0)
    got = step(recipe, case([[1]], **fields), [[-1.0]], advantages=[[-1.0]])
    assert got.metrics["off_policy"] == 1
    assert got.loss == pytest.approx(value, abs=1e-6)
    assert got.gradient.item() == pytest.approx(slope, abs=1e-6)


def test_divergence_weight_by_domain():
    changes = {"ref_logp": OLD - 2, "domain": torch.tensor([3, 0])}
    recipe = recipes.get("deepseek_v32", kl_coef=1.0, domain_kl={3: 0.0})
    plain = recipes.get("deepseek_v32", kl_coef=1.0)
    off = recipes.get("deepseek_v32", kl_coef=0.0)
    by_domain, everywhere, nowhere = (_step(r, **changes).gradient for r in (recipe, plain, off))
    torch.testing.assert_close(by_domain[0], nowhere[0])
    torch.testing.assert_close(by_domain[1], everywhere[1])
    assert (everywhere[0] - nowhere[0]).abs().min() > 0
    with pytest.raises(ValueError, match=r"recipe deepseek_v32 needs Rollout\.domain"):
        _step(recipe)


def test_reduces_to_grpo_without_std():
    plain = recipes.get("deepseek_v32", off_policy_threshold=None, kl_coef=0.0)
    assert plain.needs == frozenset()
    assert_same(plain, recipes.get("dr_grpo", aggregation="seq-mean-token-mean"))
    never = recipes.get("deepseek_v32", off_policy_threshold=math.inf, kl_coef=0.0)
    assert_same(never, plain)


def test_kept_sets_restrict_the_policy():
    """logits [2, .5, 1, −1, 0], kept {0, 2, 4}, token 2: −1.4076 instead of −1.5744."""
    logits = table([[[2.0, 0.5, 1.0, -1.0, 0.0]]]).requires_grad_()
    tokens = torch.tensor([[2]])
    support = Support(offsets=torch.tensor([0, 3]), ids=torch.tensor([0, 2, 4], dtype=torch.int32))
    stats = token_stats(logits, tokens, support=support)
    assert stats.logp.item() == pytest.approx(-1.5744, abs=5e-5)
    assert stats.support_logp.item() == pytest.approx(-1.4076, abs=5e-5)
    kept_share = math.exp(stats.logp.item() - stats.support_logp.item())
    assert kept_share == pytest.approx(0.8463, abs=5e-5)
    old = stats.support_logp.detach()
    rollout = case([[1]], old_logp=old, rollout_logp=old, ref_logp=old, support=support)
    recipe = recipes.get("deepseek_v32")
    targets = recipes.Targets(table([[1.0]]))
    plan = recipe.prepare(None, rollout, targets)
    loss, metrics = recipe.token_loss(stats, rollout, targets, plan)
    # The ratio is 1 only if both sides are restricted; −A·(1[a] − q) on the kept logits.
    assert loss.item() == pytest.approx(-1.0)
    assert metrics["kl_old"] == 0
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    q = torch.tensor([2.0, 1.0, 0.0]).double().softmax(-1)
    expected = [q[0].item(), 0, q[1].item() - 1, 0, q[2].item()]
    assert gradient.flatten().tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"stats\.support_logp: expected a tensor"):
        recipe.token_loss(stats._replace(support_logp=None), rollout, targets, plan)


def test_defaults():
    recipe = recipes.get("deepseek_v32")
    assert (recipe.off_policy_threshold, recipe.behaviour) == (0.5, "sampler")
    assert (recipe.kl_coef, recipe.kl_estimator) == (0.001, "unbiased")
    assert recipe.whole_sequences
    with pytest.raises(ValueError, match="behaviour: expected one of sampler, trainer"):
        recipes.get("deepseek_v32", behaviour="rollout")


def test_a_truncating_sampler_s_kept_sets_are_needed():
    """Catches training on the whole distribution what was drawn from a part of it."""
    for truncating in (Sampling(top_p=0.9), Sampling(top_k=5)):
        assert "support" in recipes.get("deepseek_v32", sampling=truncating).needs
    assert "support" not in recipes.get("deepseek_v32").needs
