"""Further measures by hand: which prompts, which responses, and what weighs them."""

from __future__ import annotations

import math

import pytest
import torch

from sim.lab.exact import Policy, mean_token_entropy
from sim.lab.probes import entropy_of_right, hardest, held_out_pass, kept_entropy, rare_right
from sim.lab.tasks import prompt_set, random_bandit, token_tree


def test_success_on_other_prompts():
    """Catches the easy end for the hard one, and prompts trained on among those held out."""
    task = prompt_set([3, 8], prompts=8, held_out=2, features=4)
    policy = Policy.of(task.tree, task.logits(task.start))
    success = policy.mean(task.correct.double())
    torch.testing.assert_close(hardest(task, policy), success[:, 6:8].mean(-1))
    assert (hardest(task, policy) < success[:, :6].mean(-1)).all()
    found = held_out_pass(task, policy, (1, 3))
    torch.testing.assert_close(found["held-out pass@1"], success[:, 8:].mean(-1))
    three = (1 - (1 - success[:, 8:]) ** 3).mean(-1)
    torch.testing.assert_close(found["held-out pass@3"], three)


def test_variety_of_right_responses():
    """Catches wrong responses among the right ones, and 0·ln 0 that is NaN."""
    task = random_bandit([3], arms=4, right=2)
    task.correct[0, 0] = torch.tensor([True, True, False, False])
    for probs, wanted in (([0.3, 0.1, 0.4, 0.2], (0.75, 0.25)), ([0.4, 0.0, 0.6, 0.0], (1.0,))):
        logits = torch.tensor(probs, dtype=torch.float64).log().view(1, 1, 1, 4)
        found = float(entropy_of_right(task, Policy.of(task.tree, logits)))
        assert found == pytest.approx(-sum(p * math.log(p) for p in wanted), abs=1e-12)


def test_rare_ones_are_those_of_the_start():
    """Catches rarity by the policy of now, and wrong responses counted as rare."""
    task = random_bandit([3], arms=5, right=4)
    task.correct[0, 0] = torch.tensor([True, True, True, True, False])
    task.start[0, 0, 0] = torch.tensor([0.2, 0.1, 0.4, 0.25, 0.05], dtype=torch.float64).log()
    now = torch.tensor([0.15, 0.5, 0.1, 0.05, 0.2], dtype=torch.float64).log().view(1, 1, 1, 5)
    found = rare_right(task, Policy.of(task.tree, now))
    assert float(found) == pytest.approx(0.15 + 0.5)


def test_groups_that_are_decided_weigh_nothing():
    """Catches a prompt solved for certain in the mean, and the chance of one answer in place of
    both."""
    task = token_tree([3, 8], prompts=2, vocab=3, max_length=2, answers=3)
    task.correct[:, 0] = True
    policy = Policy.of(task.tree, task.start)
    alone = Policy(
        policy.tree, policy.logp[:, 1:], policy.response_logp[:, 1:], policy.visits[:, 1:]
    )
    torch.testing.assert_close(kept_entropy(task, policy, 4), mean_token_entropy(alone))
    task.correct[:, 0] = ~task.correct[:, 1]
    p = policy.mean(task.correct.double())
    weight = sum(math.comb(4, k) * p**k * (1 - p) ** (4 - k) for k in (1, 2, 3))
    visits = policy.visits.sum(-1)
    total = (policy.visits * policy.token_entropy).sum(-1)
    wanted = (weight * total).sum(-1) / (weight * visits).sum(-1)
    torch.testing.assert_close(kept_entropy(task, policy, 4), wanted)
