"""Training on a vocabulary of real size, watched by the float64 reference."""

from __future__ import annotations

import math

import pytest
import torch

import sim.rlvr.model
from entropy_ext import reference, token_stats
from entropy_ext.recipes import Recipe, Sampling
from sim.rlvr.model import build_model
from sim.rlvr.task import ChainSum
from sim.rlvr.trainer import Trainer
from sim.rlvr.warmup import warm_up


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


class Parity(Recipe):
    """Rewards by the parity of the answer, so that an untrained model has something to learn."""

    name = "parity"

    def shape_rewards(self, rollout):
        return (rollout.tokens.sum(-1) % 2).to(rollout.rewards.dtype)


def test_five_steps_on_a_real_vocabulary(monkeypatch):
    """V = 50257: every forward and backward pass of the training agrees with the float64 truth."""
    task = ChainSum(size=200, seed=0, digits=1)
    vocab_size = 50257
    model = build_model(vocab_size=vocab_size, seed=0, hidden_size=32, layers=1)
    # Supervised first: peaked distributions, where a wrong entropy gradient shows.
    warm_up(
        model,
        task,
        task,
        target=1,
        max_steps=40,
        max_length=4,
        seed=0,
        batch=16,
        learning_rate=1e-2,
    )
    recipe = Parity(entropy_coef=0.01, minibatches=2, sampling=Sampling(group_size=4))
    trainer = Trainer(
        model,
        task,
        recipe,
        steps=5,
        seed=0,
        prompts=3,
        learning_rate=1e-3,
        max_length=4,
        micro_batch=100,
    )
    calls = []

    def watched(logits, tokens, **options):
        stats = token_stats(logits, tokens, **options)
        if logits.requires_grad:
            call = {"logits": logits.detach().clone(), "tokens": tokens, **options}
            calls.append((call, stats.logp.detach(), stats.entropy.detach()))
            logits.register_hook(lambda g: call.__setitem__("gradient", g.clone()))
            stats.logp.register_hook(lambda g: call.__setitem__("logp", g.clone()))
            stats.entropy.register_hook(lambda g: call.__setitem__("entropy", g.clone()))
        return stats

    monkeypatch.setattr(sim.rlvr.model, "token_stats", watched)
    before = [p.detach().clone() for p in model.parameters()]
    rows = [trainer.step() for _ in range(5)]
    assert len(calls) == 10
    for call, logp, entropy in calls:
        z = call["logits"].double().requires_grad_()
        truth = reference.token_stats(z, call["tokens"], mask=call["mask"])
        torch.testing.assert_close(logp.double(), truth.logp, rtol=1e-6, atol=4e-6)
        torch.testing.assert_close(entropy.double(), truth.entropy, rtol=1e-6, atol=4e-6)
        upstream = [call["logp"].double(), call["entropy"].double()]
        (expected,) = torch.autograd.grad([truth.logp, truth.entropy], z, upstream)
        error = (call["gradient"].double() - expected).abs().max()
        assert error < 5e-6 * expected.abs().max()
    assert all(call["logp"].abs().max() > 1e-3 for call, _, _ in calls)
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        assert 0 < row["entropy"] < 0.5 * math.log(vocab_size)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert all(moved)
