"""A teacher's traces and the ranks of right responses: what counts as rare, and what moves it."""

from __future__ import annotations

import pytest

from entropy_ext import recipes
from sim.lab.compare import arm
from sim.lab.exact import Policy
from sim.lab.harness import Trainer
from sim.lab.ranks import mean_change, rank_changes, rank_table
from sim.lab.tasks import random_bandit, token_tree
from sim.lab.teacher import rare_probability, rare_tokens, rare_weight

BELOW, GAMMA = 0.2, 0.1


def test_rare_tokens_by_hand():
    """Catches tokens of wrong responses, of another state, or rare now and not at the start; and
    a weight that the shaping's slope π·γ/(π + γ)² does not give."""
    task = token_tree([3, 8], prompts=2, vocab=4, max_length=3, answers=4, end=True)
    tree, start = task.tree, Policy.of(task.tree, task.start)
    later = Policy.of(tree, -task.start)
    rare, seen = rare_tokens(task, BELOW), rare_probability(task, later, BELOW)
    shares = {gamma: rare_weight(task, BELOW, gamma) for gamma in (GAMMA, None)}
    for n in range(2):
        now, light, whole = [], {GAMMA: 0.0, None: 0.0}, {GAMMA: 0.0, None: 0.0}
        for p, i, t in tree.mask.expand(2, -1, -1).nonzero().tolist():
            state, token = int(tree.states[i, t]), int(tree.tokens[i, t])
            old = float(start.probs[n, p, state, token])
            right = bool(task.correct[n, p, i])
            assert bool(rare[n, p, i, t]) == (right and old < BELOW)
            now += [float(later.probs[n, p, state, token])] if right and old < BELOW else []
            for gamma, slope in ((GAMMA, old * GAMMA / (old + GAMMA) ** 2), (None, old)):
                weight = float(task.teacher[n, p, i]) * slope
                whole[gamma] += weight
                light[gamma] += weight if right and old < BELOW else 0.0
        assert float(seen[n]) == pytest.approx(sum(now) / len(now), rel=1e-12)
        for gamma, share in shares.items():
            assert float(share[n]) == pytest.approx(light[gamma] / whole[gamma], rel=1e-9)


def test_ranks_are_those_before_the_step():
    """Catches wrong arms among the right ones, ranks after the step, a step shared among copies."""
    task = random_bandit([3, 8], arms=6, right=3)
    policy = Policy.of(task.tree, task.start)

    def make():
        return recipes.get("grpo")

    found = rank_changes(task, make, ranks=3, copies=1, learning_rate=2.0)
    trainer = Trainer(task, make, steps=1, learning_rate=2.0)
    trainer.step()
    for n in range(2):
        right = task.correct[n, 0].nonzero()[:, 0].tolist()
        before, after = policy.response_logp[n, 0], trainer.policy.response_logp[n, 0]
        order = sorted(right, key=lambda one: -float(before[one]))
        assert found[n, :, 0].tolist() == before[order].exp().tolist()
        assert found[n, :, 1].tolist() == pytest.approx((after - before)[order].tolist())
    table = rank_table(task, {"a": arm("grpo")}, ranks=3, copies=1, learning_rate=2.0)
    assert table.numbers("change", rank=2) == found[:, 1, 1].tolist()
    assert mean_change(table, "a", (1, 3)) == pytest.approx(found[:, [0, 2], 1].mean(-1).tolist())
    many = rank_changes(task, make, ranks=3, copies=64, learning_rate=2.0)
    scale = many[..., 1].abs().max() / found[..., 1].abs().max()
    assert 0.2 < float(scale) < 5
