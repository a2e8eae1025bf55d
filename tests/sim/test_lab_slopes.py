"""First-order slopes, GRPO's weight on a prompt, lengths and the count of what was sampled."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from entropy_ext.recipes import DynamicSampling, Sampling
from sim.lab.compare import difference_at
from sim.lab.exact import Policy, mean_token_entropy
from sim.lab.harness import Trainer
from sim.lab.measures import lengths
from sim.lab.slopes import first_scores, price, slope, zscore_weight
from sim.lab.tables import Table, joined
from sim.lab.tasks import token_tree


def _task(seeds):
    return token_tree(
        seeds, prompts=2, vocab=3, max_length=3, answers=3, end=True, end_bias=-1.0, success=0.3
    )


def test_a_slope_is_the_change_of_a_small_step():
    """Catches a wrong sign or sum: the same step written out, finite differences."""
    task = _task([3, 8])
    tokens = task.tree.mask.sum(-1).double()
    scores = (task.rewards - 0.3) / tokens
    policy = Policy.of(task.tree, task.start)
    step = torch.zeros_like(task.start)
    for p, i in itertools.product(range(2), range(task.tree.responses)):
        weight = policy.responses[:, p, i] * scores[:, p, i]
        for t in range(int(tokens[i])):
            state, token = int(task.tree.states[i, t]), int(task.tree.tokens[i, t])
            step[:, p, state] -= weight[:, None] * policy.probs[:, p, state]
            step[:, p, state, token] += weight
    found = slope(task, scores, mean_token_entropy, task.start)
    ahead, behind = (
        mean_token_entropy(Policy.of(task.tree, task.start + eta * step)) for eta in (1e-5, -1e-5)
    )
    torch.testing.assert_close(found, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-12)
    later, before = (
        Policy.of(task.tree, task.start + eta * step).mean(task.rewards).mean(-1)
        for eta in (1e-5, -1e-5)
    )
    paid = price(task, 7 * scores, mean_token_entropy)
    torch.testing.assert_close(paid, (ahead - behind) / (later - before), rtol=1e-6, atol=1e-12)


def test_the_weight_of_a_prompt_by_all_groups():
    """Catches a biased spread and groups counted wrongly: G = 3, every outcome by hand."""
    success = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    expected = []
    for p in success.tolist():
        total = 0.0
        for group in itertools.product((0, 1), repeat=3):
            mean = sum(group) / 3
            std = math.sqrt(sum((r - mean) ** 2 for r in group) / 2)
            chance = math.prod(p if r else 1 - p for r in group)
            # d ln P of each response along the success rate: 1/p if right, −1/(1 − p) if wrong.
            terms = [(r - mean) * (1 / p if r else -1 / (1 - p)) for r in group]
            total += chance * sum(terms) / 3 / (std + 1e-6) if std else 0.0
        expected.append(total)
    torch.testing.assert_close(
        zscore_weight(success, 3), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_first_steps_are_the_mean_over_all_groups():
    """Catches a length or a spread left in or out: groups of 2, every pair of responses."""
    task = _task([3])
    policy = Policy.of(task.tree, task.start)
    found = first_scores(task, 2)
    for p in range(2):
        chances, rewards = policy.responses[0, p], task.rewards[0, p]
        pair = chances[:, None] * chances
        half = (rewards[:, None] - rewards) / 2
        spread = half.abs() * math.sqrt(2) + 1e-6
        tokens = task.tree.mask.sum(-1)[:, None]
        # A response is half of its own group's mean, which r − p leaves out.
        for name, each in (("GRPO", half / spread / tokens), ("Dr. GRPO", 2 * half)):
            scores = (pair * each).sum(-1) / chances
            torch.testing.assert_close(found[name][0, p], scores, atol=1e-9, rtol=0)


def test_lengths_by_hand():
    """Catches lengths over all prompts at once, truncated ones left out, and a bias at no token."""
    task = _task([3, 8])
    policy = Policy.of(task.tree, task.start)
    found = lengths(task, policy)
    plain = token_tree([3], prompts=2, vocab=3, max_length=3, answers=3, end=True)
    torch.testing.assert_close(
        (task.start[0] - plain.start[0])[..., 0], torch.full((2, 7), -1.0).double()
    )
    for n in range(2):
        for name, verdict in (("right", True), ("wrong", False)):
            means = []
            for p in range(2):
                rows = [i for i in range(task.tree.responses) if task.correct[n, p, i] == verdict]
                mass = [float(policy.responses[n, p, i]) for i in rows]
                tokens = [int(task.tree.mask[i].sum()) for i in rows]
                means.append(sum(map(lambda m, t: m * t, mass, tokens)) / sum(mass))
            assert float(found[f"length_{name}"][n]) == pytest.approx(sum(means) / 2, rel=1e-12)


def test_what_was_sampled_counts_refills():
    """Catches a cost that leaves out the groups that were thrown away."""
    task = _task([3, 8])
    task.correct[0] = True
    trainer = Trainer(
        task,
        lambda: DynamicSampling(sampling=Sampling(group_size=4, refill=2)),
        steps=2,
        learning_rate=1.0,
    )
    assert trainer.measure()["sampled"].tolist() == [0, 0]
    trainer.step()
    assert trainer.measure()["sampled"][0] == 3 * 8
    assert trainer.measure()["sampled"][1] < 3 * 8


def test_differences_at_a_level_pair_the_same_seeds():
    """Catches arms read at the same step rather than level, and seeds that never get there."""
    rows = []
    for seed in range(12):
        for step in range(5):
            reached = 0.1 * step if seed < 11 else 0.0
            rows.append(("slow", seed, step, reached, 10.0 * seed + step))
            rows.append(("fast", seed, step, 2 * reached, 10.0 * seed + 3 * step))
    tables = {"runs": Table.of(("arm", "seed", "step", "reward", "length"), rows)}
    found = difference_at(tables, "length", "fast", "slow", level=0.3)
    assert found.samples == 11
    assert found.value == pytest.approx(3 * 1.5 - 3)


def test_joined_tables_keep_every_row():
    """Catches parts that replace each other."""
    parts = [{"a": Table.of(("x",), [(n,)])} for n in range(3)]
    assert joined(parts)["a"].column("x") == [0, 1, 2]
