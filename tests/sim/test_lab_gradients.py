"""The policy gradient as a random variable."""

from __future__ import annotations

import torch

from entropy_ext.rl.advantages import group_mean, leave_one_out
from sim.lab.exact import Policy, state_values
from sim.lab.gradients import (
    baseline,
    baseline_variances,
    group_noise,
    score_vectors,
    variance,
)
from sim.lab.tasks import token_tree
from sim.lab.traces import trace_error, trace_errors


def _small(seeds):
    task = token_tree(seeds, prompts=1, vocab=3, max_length=3, answers=2, end=True)
    policy = Policy.of(task.tree, task.start)
    return task, policy, score_vectors(policy)


def test_score_vectors_against_autograd():
    """Catches a token scored in another state, and tokens after the end."""
    task, _, scores = _small([3, 8])
    for n in range(2):
        logits = task.start[n : n + 1].clone().requires_grad_()
        logp = Policy.of(task.tree, logits).response_logp[0, 0]
        for i in range(task.tree.responses):
            (expected,) = torch.autograd.grad(logp[i], logits, retain_graph=True)
            torch.testing.assert_close(scores[n, 0, i], expected.flatten(), rtol=0, atol=1e-14)


def test_the_optimal_baseline_is_where_the_variance_is_least():
    """Catches a variance or a weight that is not what it says: the parabola's own minimum."""
    task, policy, scores = _small([3, 8])
    size = scores.square().sum(-1)

    def at(b):
        return variance(policy, scores, task.rewards - b[..., None])

    best = baseline(policy, task.rewards, size)
    low, middle, high = (at(torch.full_like(best, b)) for b in (-1.0, 0.0, 1.0))
    minimum = (low - high) / (low - 2 * middle + high) / 2
    torch.testing.assert_close(best, minimum, rtol=1e-9, atol=0)
    by_hand = torch.zeros(2, 1).double()
    truth = (policy.responses[..., None] * task.rewards[..., None] * scores).sum(-2)
    for i in range(task.tree.responses):
        gap = (task.rewards[..., i, None] - best[..., None]) * scores[..., i, :] - truth
        by_hand += policy.responses[..., i] * gap.square().sum(-1)
    torch.testing.assert_close(at(best), by_hand, rtol=1e-9, atol=0)
    found = baseline_variances(policy, scores, task.rewards)
    plain = at(policy.mean(task.rewards))
    torch.testing.assert_close(found["optimum"], at(best) / plain, rtol=1e-9, atol=0)
    torch.testing.assert_close(found["none"], at(torch.zeros_like(best)) / plain)
    assert all((value >= found["optimum"]).all() for value in found.values())
    assert (found["mean"] == 1).all()


def test_noise_of_groups_against_the_exact_variance():
    """Catches noise that depends on the scale of the advantages, and the gradient of one response
    taken for a group's: without a baseline both are known."""
    task, policy, scores = _small([3, 8])

    def noise(advantage):
        return group_noise(task, policy, scores, advantage, group_size=4, groups=4000)

    found = noise(lambda rewards, prompt, mask: rewards[:, None] * mask)
    truth = torch.einsum("npl,nplx->npx", policy.responses * task.rewards, scores)
    exact = variance(policy, scores, task.rewards) / truth.square().sum(-1) / 4
    torch.testing.assert_close(found, exact[:, 0], rtol=0.1, atol=0)
    # They differ by the factor (G − 1)/G alone.
    torch.testing.assert_close(noise(group_mean), noise(leave_one_out), rtol=1e-9, atol=0)


def test_traces_at_both_ends():
    """Catches values of other states and squares that do not add up: λ = 1 without values is
    REINFORCE, and exact values are without bias at any λ."""
    task, policy, scores = _small([3, 8])
    nothing = torch.zeros_like(policy.visits)
    plain = trace_error(policy, task.rewards, nothing, 1.0)
    truth = torch.einsum("npl,nplx->npx", policy.responses * task.rewards, scores)
    noise = variance(policy, scores, task.rewards) / truth.square().sum(-1)
    torch.testing.assert_close(plain.noise, noise, rtol=1e-9, atol=0)
    values = state_values(policy, task.rewards)
    for decay in (0.0, 0.5, 1.0):
        assert (trace_error(policy, task.rewards, values, decay).bias < 1e-12).all()
    assert (trace_error(policy, task.rewards, nothing, 0.5).bias > 0.01).all()
    each = torch.where(task.tree.mask.sum(-1) > 2, 0.5, 0.0).double()
    assert (trace_error(policy, task.rewards, values, each).bias > 1e-4).all()
    table = trace_errors(task, {"half": 0.5, "whole": 1.0})
    found = table.numbers("noise", values="none", λ="whole")
    assert found == plain.noise[:, 0].tolist()
    assert max(table.numbers("bias", values="exact")) < 1e-12
    assert min(table.numbers("bias", values="none", λ="half")) > 0.01
