"""Seeds that train side by side and never meet."""

from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.recipes import Recipe
from sim.lab import harness
from sim.lab.harness import Trainer
from sim.lab.over_seeds import alike
from sim.lab.training import train
from tests.small_tree import small_tree


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_trains_and_no_seed_meets_another(name):
    """Catches groups, means, selections or controllers that mix seeds: alone, the same policy."""
    options = {"steps": 3, "learning_rate": 2.0, "ks": (1, 4)}
    together = train(small_tree([4, 9, 2]), lambda: recipes.get(name), **options)
    alone = train(small_tree([9]), lambda: recipes.get(name), **options)
    assert not torch.equal(together.parameters[1], small_tree([9]).start[0])
    torch.testing.assert_close(together.parameters[1], alone.parameters[0], rtol=0, atol=1e-10)
    assert torch.isfinite(together.parameters).all()
    for measured in ("entropy", "reward", "kl", "pass@4"):
        assert torch.isfinite(together[measured]).all()


@pytest.mark.parametrize("name", ["grpo", "nsr", "bcpg_nsa", "sent", "entropy_neutral"])
def test_hooks_for_many_seeds_at_once_are_those_of_each(name, monkeypatch):
    """Catches a mean, group or selection over the seeds of a call, parts of other seeds' order."""
    task = small_tree([4, 9, 2, 7], end=True)
    runs = []
    for together in (True, False):
        if not together:
            monkeypatch.setattr(harness, "alike", lambda every: False)
        trainer = Trainer(task, lambda: recipes.get(name), steps=3, learning_rate=2.0)
        assert trainer.together == together
        for _ in range(3):
            trainer.step()
        runs.append((trainer.parameters.detach(), trainer.last))
    torch.testing.assert_close(*(parameters for parameters, _ in runs), rtol=0, atol=1e-12)
    torch.testing.assert_close(*(last for _, last in runs), rtol=1e-12, atol=0)


class _Counting(Recipe):
    """A recipe of somebody's own, which may keep what it likes in its attributes."""


def test_one_recipe_stands_for_all_only_where_it_may():
    """Catches states or options of one seed that serve another's."""
    assert alike([recipes.get("grpo") for _ in range(3)])
    assert alike([recipes.get("starter") for _ in range(3)])
    for name in ("entropic", "seed_grpo", "clip_cov"):
        assert not alike([recipes.get(name) for _ in range(3)])
    assert not alike([recipes.get("grpo"), recipes.get("grpo", clip_high=0.3)])
    assert not alike([recipes.get("grpo"), recipes.get("dapo")])
    assert not alike([_Counting(), _Counting()])


def test_same_seeds_same_bits():
    """Catches any generator or order that is not fixed by the seed."""
    runs = [
        train(small_tree([4, 9]), lambda: recipes.get("dapo"), steps=3, learning_rate=2.0)
        for _ in range(2)
    ]
    assert torch.equal(runs[0].parameters, runs[1].parameters)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_learning_rates_of_each_seed(optimizer):
    """Catches a rate that falls to another seed: the same seed twice, at two rates."""
    both, alone = (small_tree(seeds) for seeds in ([4, 4], [4]))
    rates = torch.tensor([0.5, 0.1], dtype=torch.float64)
    options = {"steps": 2, "optimizer": optimizer}
    together = train(both, lambda: recipes.get("grpo"), learning_rate=rates, **options)
    for n, rate in enumerate(rates.tolist()):
        single = train(alone, lambda: recipes.get("grpo"), learning_rate=rate, **options)
        torch.testing.assert_close(together.parameters[n], single.parameters[0], rtol=0, atol=1e-12)
