"""A recipe's hooks: called in order, with what they need, and their requests carried out."""

from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.recipes import Recipe, Sampling
from sim.lab.harness import Trainer
from sim.lab.tasks import two_modes
from tests.small_tree import small_tree


class _Recorder(Recipe):
    """Notes which hook was called, and drops whole groups at first."""

    statistics = "minibatch"
    extras = True
    minibatches = 2
    epochs = 2
    sampling = Sampling(group_size=8, refill=1)

    def __init__(self):
        super().__init__()
        self.calls = []

    def select_prompts(self, prompt_stats, progress):
        self.calls.append("select_prompts")
        return super().select_prompts(prompt_stats, progress)

    def shape_rewards(self, rollout):
        self.calls.append("shape_rewards")
        return rollout.rewards + 10.0

    def keep(self, rollout):
        self.calls.append("keep")
        assert (rollout.rewards >= 10).all()
        return (rollout.prompt % 3) != 0

    def targets(self, rollout, *, group=None):
        self.calls.append("targets")
        assert len(rollout.mask) == 24
        assert rollout.prompt.unique().tolist() == [1, 2, 4]
        return super().targets(rollout)

    def prepare(self, stats, rollout, targets, *, group=None):
        self.calls.append("prepare")
        assert stats.collision is not None
        assert not stats.logp.requires_grad
        assert len(rollout.mask) == 12
        return super().prepare(stats, rollout, targets)

    def token_loss(self, stats, rollout, targets, plan):
        self.calls.append("token_loss")
        assert stats.logp.requires_grad
        return super().token_loss(stats, rollout, targets, plan)

    def after_step(self, metrics):
        self.calls.append("after_step")
        assert metrics["kl_reference"] > 0
        return super().after_step(metrics)._replace(reset_reference=True, reset_optimizer=True)


def test_hooks_come_in_the_documented_order():
    """Catches a hook skipped or out of order, a refill not drawn, a request not carried out."""
    trainer = Trainer(small_tree([4, 9]), _Recorder, steps=2, learning_rate=1.0, optimizer="adam")
    trainer.step()
    sampled = ["select_prompts", "shape_rewards", "keep"]
    update = ["prepare", "token_loss"]
    expected = [*sampled, *sampled, "targets", *update * 4, "after_step"]
    assert trainer.recipes[1].calls == expected
    assert torch.equal(trainer.reference, trainer.parameters.detach())
    assert (trainer.optimizer.steps == 0).all()
    assert trainer.attempts.sum(-1).tolist() == [48, 48]


def test_the_divergence_from_the_reference_is_that_before_a_reset():
    """Catches a divergence from the start, or one measured when it is 0 again."""
    trainer = Trainer(small_tree([4, 9]), _Recorder, steps=2, learning_rate=1.0)
    assert trainer.measure()["kl_reference"].isnan().all()
    trainer.step()
    before = trainer.policy
    trainer.step()
    found, now = trainer.measure(), trainer.policy
    gap = (now.responses * (now.response_logp - before.response_logp)).sum(-1).mean(-1)
    torch.testing.assert_close(found["kl_reference"] * found["length"], gap)
    assert (found["kl_reference"] < found["kl"] / found["length"]).all()


class _Picky(recipes.get("deepseek_v32").__class__):
    """Drops the first prompt's responses, so that two batches must be joined."""

    minibatches = 2
    sampling = Sampling(group_size=6, top_k=2, refill=1)

    def keep(self, rollout):
        return (rollout.prompt % 3) != 0


def test_joined_batches_keep_their_supports():
    """Catches kept sets, statistics or responses that part ways when batches are joined."""
    trainer = Trainer(small_tree([4, 9]), _Picky, steps=2, learning_rate=1.0, mismatch=0.05)
    (held,) = trainer._collect()
    assert len(held) == 18
    rollout, kept = held.rollouts()[1], held.own["kept"][1]
    assert rollout.prompt.unique().tolist() == [1, 2, 4]
    assert torch.equal(rollout.tokens, trainer.task.tree.tokens[held.own["response"][1]])
    assert torch.equal(rollout.prompt % 3, held.own["prompt"][1])
    for row, t in ((0, 0), (7, 2), (17, 1)):
        support = rollout.rows(torch.tensor([row])).support
        ids = support.ids[support.offsets[t] : support.offsets[t + 1]]
        assert torch.equal(ids.long(), kept[row, t].nonzero()[:, 0])
        assert kept[row, t, rollout.tokens[row, t]]
    torch.testing.assert_close(held.stats["support_logp"][1], rollout.old_logp, rtol=0, atol=0)
    trainer.step()
    trainer.step()
    assert torch.isfinite(trainer.parameters).all()
    assert not torch.equal(trainer.parameters.detach(), trainer.task.start)


def test_what_a_task_does_not_know_is_refused():
    """Catches a recipe that would learn from a field which is not there."""
    with pytest.raises(ValueError, match="recipe luffy needs teacher: not known to two_modes"):
        Trainer(two_modes([0]), lambda: recipes.get("luffy"), steps=1, learning_rate=1.0)
