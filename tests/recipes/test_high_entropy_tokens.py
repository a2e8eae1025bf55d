from __future__ import annotations

import pytest
import torch

from entropy_ext import TokenStats, recipes
from entropy_ext.recipes import Targets
from entropy_ext.rl import Rollout
from tests.recipe_runs import loss, make_logits, make_rollout, prepare


def _step(recipe, entropy, mask=None):
    """One response to a row of `entropy`; with ratio 1 the loss of token t is t + 1."""
    entropy = torch.tensor(entropy, dtype=torch.float64)
    mask = torch.ones_like(entropy, dtype=torch.bool) if mask is None else torch.tensor(mask)
    zeros = torch.zeros_like(entropy)
    rollout = _rollout(entropy.shape, mask)
    targets = Targets(-torch.arange(1.0, entropy.numel() + 1).double().view(entropy.shape))
    at = zeros.clone().requires_grad_()
    stats = TokenStats(at, entropy, zeros)
    plan = recipe.prepare(TokenStats(zeros, entropy, zeros), rollout, targets)
    total = plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)
    return plan, total, torch.autograd.grad(total, at)[0]


def _rollout(shape, mask):
    return Rollout(
        tokens=torch.zeros(shape, dtype=torch.int64),
        mask=mask,
        rewards=torch.zeros(shape[0], dtype=torch.float64),
        prompt=torch.arange(shape[0]),
        old_logp=torch.zeros(shape, dtype=torch.float64),
        max_length=shape[1],
        step=0,
        progress=0.0,
        correct=torch.zeros(shape[0], dtype=torch.bool),
    )


TEN = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]]


@pytest.mark.parametrize(("variant", "mean"), [("authors", 9.5), ("trl", 1.9)])
def test_ten_tokens_by_hand(variant, mean):
    """The two of highest entropy, losses 9 and 10; the variants differ in what they divide by."""
    plan, total, gradient = _step(recipes.get("high_entropy_tokens", variant=variant), TEN)
    assert total.item() == pytest.approx(mean)
    expected = [0.0] * 8 + [9.0 / (19 / mean), 10.0 / (19 / mean)]
    assert gradient[0].tolist() == pytest.approx(expected)
    assert plan.normalizer.item() == {"authors": 2, "trl": 10}[variant]


@pytest.mark.parametrize(("tokens", "kept"), [(11, 3), (6, 2), (5, 1), (1, 1)])
def test_how_many_are_kept(tokens, kept):
    """The share is rounded up, so that a lone token is learnt from."""
    entropy = [[0.1 * t for t in range(1, tokens + 1)]]
    plan, _, _ = _step(recipes.get("high_entropy_tokens"), entropy)
    assert plan.mask.sum().item() == kept


def test_ties():
    """Ten equal entropies: the authors' code keeps two, TRL all ten."""
    equal = [[0.5] * 10]
    plan, _, _ = _step(recipes.get("high_entropy_tokens"), equal)
    assert plan.mask.sum().item() == 2
    plan, _, _ = _step(recipes.get("high_entropy_tokens", variant="trl"), equal)
    assert plan.weights.tolist() == [[1.0] * 10]


def test_trl_s_quantile_is_of_unpadded_tokens():
    """Entropies 0.1 to 1.2, the last two padded: those of 0.9 and 1.0 remain."""
    entropy = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.7, 0.8, 0.9, 1.0, 1.1, 1.2]]
    mask = [[True] * 6, [True] * 4 + [False] * 2]
    plan, _, _ = _step(recipes.get("high_entropy_tokens", variant="trl"), entropy, mask)
    assert plan.weights.tolist() == [[0.0] * 6, [0, 0, 1, 1, 0, 0]]


def test_variants_agree_on_the_tokens_at_a_fifth():
    """For fraction 0.2 and no ties both rules choose the same set."""
    generator = torch.Generator().manual_seed(0)
    for tokens in (1, 2, 7, 23, 100, 501):
        entropy = torch.rand(1, tokens, generator=generator, dtype=torch.float64).tolist()
        authors, _, _ = _step(recipes.get("high_entropy_tokens"), entropy)
        trl, _, _ = _step(recipes.get("high_entropy_tokens", variant="trl"), entropy)
        assert torch.equal(authors.mask, trl.weights > 0)


def test_all_tokens_is_dapo():
    logits, rollout = make_logits(), make_rollout()
    dapo = recipes.get("dapo", dual_clip=10.0)
    expected = loss(dapo, logits, prepare(dapo, logits, rollout))
    for variant in ("authors", "trl"):
        recipe = recipes.get("high_entropy_tokens", fraction=1.0, variant=variant)
        got = loss(recipe, logits, prepare(recipe, logits, rollout))
        assert got.item() == expected.item()


def test_entropy_carries_no_gradient():
    """Selection is data: the loss moves with logp alone."""
    recipe, rollout, logits = recipes.get("high_entropy_tokens"), make_rollout(), make_logits()
    rollout, targets, plan = prepare(recipe, logits, rollout)
    logp = rollout.old_logp.clone().requires_grad_()
    entropy = torch.ones(6, 4, dtype=torch.float64, requires_grad=True)
    stats = TokenStats(logp, entropy, torch.zeros_like(logp))
    total = plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)
    gradients = torch.autograd.grad(total, (logp, entropy), allow_unused=True)
    assert gradients[0].abs().max() > 0
    assert gradients[1] is None


def test_defaults_are_dapo_s_script():
    recipe = recipes.get("high_entropy_tokens")
    assert (recipe.clip_low, recipe.clip_high, recipe.dual_clip) == (0.2, 0.28, 10.0)
    assert (recipe.fraction, recipe.variant, recipe.statistics) == (0.2, "authors", "minibatch")
    assert recipe.sampling.group_size == 16
    with pytest.raises(ValueError, match="variant: expected one of authors, trl, got 'swift'"):
        recipes.get("high_entropy_tokens", variant="swift")
