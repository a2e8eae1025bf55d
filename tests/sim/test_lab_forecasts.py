"""Forecasts of entropy along a run, and orders of prompts."""

from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.recipes import PromptStats, Sampling, SemanticCurriculum
from sim.lab.compare import arm
from sim.lab.curricula import EveryOtherFirst, HighFirst, difficulty
from sim.lab.exact import Policy, mean_token_entropy, semantic_entropy
from sim.lab.forecasts import batch_ranks, forecasts, token_means
from sim.lab.foretold import EXACT
from sim.lab.harness import Trainer
from sim.lab.tables import Table
from sim.lab.tasks import prompt_set, token_tree

ON_POLICY = arm(
    "grpo", minibatches=1, aggregation="token-mean", sampling=Sampling(group_size=8)
).recipe


def test_forecasts_are_of_the_batches_that_the_run_learns_from():
    """Catches other responses than the trainer's, a ΔH of another step, and an age off by one."""
    task = token_tree([3, 8], prompts=2, vocab=3, max_length=2, answers=3, success=0.3)
    tables = forecasts(task, ON_POLICY, steps=4, learning_rate=1e-4, lag=2, eta=1e-6)
    trainer = Trainer(task, ON_POLICY, steps=4, learning_rate=1e-4)
    entropies = [mean_token_entropy(trainer.policy)]
    for _ in range(4):
        trainer.step()
        entropies.append(mean_token_entropy(trainer.policy))
    batches = tables["batches"].where(estimate=EXACT)
    for n in range(2):
        changes = torch.stack(entropies).diff(dim=0)[:, n].tolist()
        assert batches.numbers("measured", seed=n) == pytest.approx(changes, rel=1e-9, abs=1e-16)
    tokens = tables["tokens"].where(estimate=EXACT)
    assert [tokens.where(age=age, seed=0).column("step") for age in (0, 2)] == [
        [0, 1, 2, 3],
        [2, 3],
    ]
    # To first order the exact form is the measured change, on fresh tokens and on stale ones.
    for age in (0, 2):
        assert token_means(tables, "sign", EXACT, age) == pytest.approx([1.0, 1.0])
        assert min(token_means(tables, "rank", EXACT, age)) > 0.99


def test_forecasts_are_averaged_seed_by_seed():
    """Catches NaN in a mean, another age, and ranks over the batches of all seeds."""
    tokens = [
        ("a", age, step, n, rank, 0.0)
        for n, ranks in enumerate([(0.5, math.nan, 0.7), (1.0, 1.0, -1.0)])
        for step, rank in enumerate(ranks)
        for age, rank in ((0, rank), (2, 0.0))
    ]
    foretold = [(1, 2, 3), (3, 2, 1)]
    batches = [("a", step, n, foretold[n][step], step) for n in range(2) for step in range(3)]
    tables = {
        "tokens": Table.of(("estimate", "age", "step", "seed", "rank", "sign"), tokens),
        "batches": Table.of(("estimate", "step", "seed", "foretold", "measured"), batches),
    }
    assert token_means(tables, "rank", "a") == pytest.approx([0.6, 1 / 3])
    assert batch_ranks(tables, "a") == pytest.approx([1.0, -1.0])


def test_orders_of_prompts():
    """Catches an order that is SENT's own, and halves that differ in difficulty."""
    entropies = torch.tensor([0.1, 0.2, 0.4, 0.3], dtype=torch.float64)
    tries = torch.ones(4, dtype=torch.long)
    stats = PromptStats(tries, tries.double(), semantic_entropy=entropies)
    orders = (SemanticCurriculum(), HighFirst(), EveryOtherFirst())
    first = [order.select_prompts(stats, 0.0).bool().tolist() for order in orders]
    assert first == [
        [True, True, False, False],
        [False, False, True, True],
        [True, False, True, False],
    ]


def test_difficulty_of_the_start():
    """Catches columns exchanged, held-out prompts, and rows of another seed."""
    task = prompt_set([3, 8], prompts=3, held_out=2, features=3)
    table = difficulty(task)
    policy = Policy.of(task.tree, task.logits(task.start))
    entropies = semantic_entropy(policy, task.answers)
    for n in range(2):
        rows = table.where(seed=n)
        assert rows.column("prompt") == [0, 1, 2]
        assert rows.numbers("semantic_entropy") == entropies[n, :3].tolist()
        success = torch.where(task.correct[n, :3], policy.responses[n, :3], 0.0).sum(-1)
        assert rows.numbers("success") == pytest.approx(success.tolist())
