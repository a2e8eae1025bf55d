"""Optimizer steps: the gradient, the step along it, and the table of values beside the policy."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from entropy_ext import recipes
from sim.lab.exact import Policy, state_values
from sim.lab.harness import Trainer
from sim.lab.optimizers import Optimizer
from sim.lab.tasks import prompt_set, two_modes
from tests.small_tree import small_tree


def test_one_step_of_grpo_against_plain_pytorch():
    """Catches a wrong gradient, normaliser, sign or step size: the update written out again."""
    task = small_tree([3, 8])
    trainer = Trainer(task, lambda: recipes.get("grpo", minibatches=1), steps=1, learning_rate=0.7)
    samples = trainer._sample(0)
    trainer.step()
    for n in range(2):
        table = task.start[n].clone().requires_grad_()
        logp = table.log_softmax(-1)
        rows = samples.prompt[n][:, None], task.tree.states[samples.response[n]]
        chosen = logp[rows].gather(-1, samples.fields["tokens"][n][..., None])[..., 0]
        reward = samples.fields["rewards"][n].view(3, 16)
        centred = reward - reward.mean(-1, keepdim=True)
        advantage = (centred / (reward.std(-1, keepdim=True) + 1e-6)).flatten()
        (advantage[:, None] * chosen).mean().backward()
        expected = task.start[n] + 0.7 * table.grad
        torch.testing.assert_close(trainer.parameters.detach()[n], expected, rtol=0, atol=1e-14)


def test_shared_parameters_get_the_gradient_of_all_prompts():
    """Catches a log-linear policy whose gradient misses the features: finite differences."""
    task = prompt_set([3], prompts=3, held_out=0, features=4, vocab=3, max_length=2, right=3)
    recipe = recipes.get("grpo", minibatches=1, aggregation="seq-mean-token-sum")
    trainer = Trainer(task, lambda: recipe, steps=1, learning_rate=1.0)
    held = trainer._collect()
    targets = recipe.targets(held[0].rollouts()[0])
    trainer._update(held, [{"advantages": targets.advantages[None]}], _sums())
    step = trainer.parameters.detach() - task.start

    def objective(parameters):
        policy = Policy.of(task.tree, task.logits(parameters))
        logp = policy.response_logp[0][held[0].own["prompt"][0], held[0].own["response"][0]]
        return float((targets.advantages[:, 0] * logp).mean())

    for place in [(0, 0, 0, 0), (0, 2, 1, 1), (0, 3, 3, 2)]:
        up, down = task.start.clone(), task.start.clone()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope = (objective(up) - objective(down)) / 2e-5
        assert step[place] == pytest.approx(slope, rel=1e-6, abs=1e-10)


def _sums():
    return defaultdict(lambda: torch.zeros(1).double())


def test_adam_against_torch():
    """Catches a bias correction or order of moments unlike torch.optim.Adam's."""
    start = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    mine = Optimizer(ours, 0.05, "adam")
    reference = torch.optim.Adam([theirs], lr=0.05)
    for k in range(5):
        gradient = torch.sin(start * (k + 1))
        mine.step(gradient, torch.tensor([True, True]))
        theirs.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_a_seed_without_anything_to_learn_from_stands_still():
    """Catches a step of nothing: 0/0, or momentum that moves a seed which sat out."""
    task = two_modes([0, 1], likely=0.4, rare=0.2)
    task.correct[0] = True
    trainer = Trainer(
        task, lambda: recipes.get("dapo"), steps=3, learning_rate=0.1, optimizer="adam"
    )
    trainer.step()
    trainer.step()
    assert torch.equal(trainer.parameters.detach()[0], task.start[0])
    assert not torch.equal(trainer.parameters.detach()[1], task.start[1])
    assert trainer.measure()["kept"][0] == 0


def test_a_critic_learns_the_value_function():
    """Catches a value table that is not trained, or trained on other states' returns."""
    task = small_tree([4])
    trainer = Trainer(
        task,
        lambda: recipes.get("vapo", minibatches=1, value_clip=None),
        steps=400,
        learning_rate=1.0,
        critic_rate=5.0,
    )
    for _ in range(50):
        trainer.step()
    assert torch.equal(trainer.parameters.detach(), task.start)
    exact = state_values(trainer.start, task.rewards)
    seen = trainer.start.visits > 0.3
    assert (trainer.critic.detach() - exact)[seen].abs().max() < 0.15
    trainer.step()
    assert not torch.equal(trainer.parameters.detach(), task.start)
