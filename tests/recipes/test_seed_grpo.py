from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.recipes import Sampling
from entropy_ext.rl.advantages import group_mean
from tests.recipe_runs import loss, make_logits, make_rollout, prepare


def test_weighs_whole_groups():
    """Answers 4, –, 4 to prompt 0, 7 and 4 to prompt 1, one alone: three entropies, G = 8."""
    sampling = Sampling(group_size=8)
    rollout = make_rollout(old_logp=torch.full((6, 4), -1.0, dtype=torch.float64))
    recipe = recipes.get("seed_grpo", alpha=1.0, sampling=sampling)
    plain = group_mean(rollout.rewards, rollout.prompt, rollout.mask)
    entropy = {0: math.log(3) - 2 / 3 * math.log(2), 1: math.log(2), 2: 0.0}
    rollout = rollout.replace(answers=["4", "7", None, "4", "4", "9"])
    weight = [1 / (1 + entropy[p] / math.log(8)) for p in rollout.prompt.tolist()]
    expected = plain * torch.tensor(weight, dtype=torch.float64)[:, None]
    torch.testing.assert_close(recipe.targets(rollout).advantages, expected)


def test_without_sensitivity_is_dr_grpo():
    rollout = make_rollout()
    recipe = recipes.get("seed_grpo", alpha=0.0)
    plain = group_mean(rollout.rewards, rollout.prompt, rollout.mask)
    assert torch.equal(recipe.targets(rollout).advantages, plain)
    assert recipe.aggregation == "seq-mean-token-sum-norm"
    logits, parent = make_logits(), recipes.get("dr_grpo")
    ours, theirs = (loss(r, logits, prepare(r, logits, rollout)) for r in (recipe, parent))
    assert ours.item() == theirs.item()


def test_takes_any_clustering():
    """By the parity of the first token; answers are then not needed."""
    rollout = make_rollout(answers=None)
    recipe = recipes.get("seed_grpo", cluster=lambda r: r.tokens[:, 0] % 2, alpha=1.0)
    assert recipe.needs == frozenset()
    together = recipes.get("seed_grpo", cluster=lambda r: torch.zeros_like(r.prompt), alpha=1.0)
    plain = group_mean(rollout.rewards, rollout.prompt, rollout.mask)
    assert torch.equal(together.targets(rollout).advantages, plain)
    parity = rollout.tokens[:, 0] % 2
    for prompt in (0, 1):
        members = rollout.prompt == prompt
        differs = len(parity[members].unique()) > 1
        shrunk = (
            recipe.targets(rollout).advantages[members].abs().sum() < plain[members].abs().sum()
        )
        assert shrunk == differs


def test_estimators_differ():
    rollout = make_rollout()
    shannon, mean = (
        recipes.get("seed_grpo", alpha=1.0, estimator=form).targets(rollout).advantages
        for form in ("shannon", "mc_mean")
    )
    assert (shannon.abs() >= mean.abs()).all()
    assert (shannon.abs() > mean.abs()).any()


def test_in_a_group_of_one_is_not_divided_by_zero():
    rollout = make_rollout(prompt=torch.arange(6))
    recipe = recipes.get("seed_grpo", sampling=Sampling(group_size=1), singleton="reward")
    expected = torch.where(rollout.mask, rollout.rewards[:, None], 0.0)
    assert torch.equal(recipe.targets(rollout).advantages, expected)


def test_probabilities_from_sums_prefer_the_short():
    """Every token at −1, lengths 4, 1, 3: means are equal, sums leave e³ to one for the second."""
    rollout = make_rollout(
        old_logp=torch.full((6, 4), -1.0, dtype=torch.float64),
        prompt=torch.tensor([0, 0, 0, 1, 1, 1]),
        answers=list("abcddd"),
        rewards=torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=torch.float64),
    )
    weights = []
    for normalize in (True, False):
        recipe = recipes.get("seed_grpo", alpha=1.0, length_normalize=normalize)
        weights.append(recipe.targets(rollout).advantages[0, 0].item() / (2 / 3))
    p = [math.exp(x) for x in (-4, -1, -3)]
    summed = -sum(x / sum(p) * math.log(x / sum(p)) for x in p)
    most = math.log(16)
    assert weights == pytest.approx([1 / (1 + math.log(3) / most), 1 / (1 + summed / most)])
