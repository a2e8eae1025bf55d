"""Expected gradients against autograd, ranks by hand, and the estimates that experiments judge."""

from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.recipes import Sampling
from sim.lab.draws import normals
from sim.lab.enumeration import along, likelihood_gradient, relative_error, to_parameters
from sim.lab.exact import Policy, mean_token_entropy
from sim.lab.foretold import foretell
from sim.lab.mismatch import NONE, RESPONSE, TOKEN, gradients, mismatch_bias
from sim.lab.penalties import penalty_bias, penalty_gradient
from sim.lab.sampler import Draw, sample
from sim.lab.slopes import slope
from sim.lab.statistics import rank_correlation
from sim.lab.support import FULL, REPLAY, gradient_bias, nucleus, ratio_bias, ratios, sampled
from sim.lab.tasks import prompt_set, random_bandit, token_tree
from sim.lab.tree import grow

SEEDS = torch.tensor([5, 6])


@pytest.mark.parametrize("end", [False, True])
def test_expected_gradients_are_those_of_autograd(end):
    """Catches a weight on another token or state, weights off the mask, an impossible token."""
    tree = grow(3, 3, end=end)
    logits = normals(SEEDS, 1, shape=(2, tree.size, 3))
    logits[:, 0, 0, 1] = -torch.inf
    weights = normals(SEEDS, 2, shape=(2, tree.responses, 3))
    weights[:, 0, (tree.tokens[:, 0] == 1)] = 0.0
    wanted = logits.clone().requires_grad_()
    logp = along(tree, wanted.log_softmax(-1))
    loss = torch.where(tree.mask & (weights != 0), weights * logp, 0.0).sum()
    (gradient,) = torch.autograd.grad(loss, wanted)
    padded = torch.where(tree.mask, weights, torch.nan)
    torch.testing.assert_close(likelihood_gradient(tree, logits, padded), gradient)


def test_gradients_reach_the_parameters():
    """Catches features of another prompt, and a norm over all seeds together."""
    task = prompt_set([3, 4], prompts=3, held_out=1, features=2)
    weights = normals(task.seeds, 7, shape=(4, task.tree.size, 4))
    parameters = task.start.clone().requires_grad_()
    (task.logits(parameters) * weights).sum().backward()
    torch.testing.assert_close(to_parameters(task, weights), parameters.grad)
    truth = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    found = relative_error(truth + torch.tensor([[0.0, 1.0], [2.0, 0.0]]), truth)
    assert found.tolist() == pytest.approx([0.2, 2.0])


def test_rank_correlation_by_hand():
    """Catches ranks of ties in order of appearance, and a constant side taken for agreement."""
    assert rank_correlation([1, 5, 3], [10, 1000, 11]) == pytest.approx(1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4.
    assert rank_correlation([0, 1, 1, 2], [0, 3, 2, 9]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert math.isnan(rank_correlation([1, 1], [1, 2]))
    with pytest.raises(ValueError, match="right: expected 2 values as in left, got 1"):
        rank_correlation([1, 2], [1])


def test_entropy_changes_are_foretold_by_hand():
    """Catches an Ω that met a bound or lost its sign, a stale ratio, a step of another token."""
    task = token_tree([3, 8], prompts=2, vocab=3, max_length=2, answers=3, success=0.3)
    weights = torch.ones(2, 2, dtype=torch.float64)
    samples = sample(
        task,
        task.start,
        task.start,
        weights,
        Draw(0, 0.0, 0, None),
        sampling=Sampling(group_size=8),
        groups=2,
    )
    logits = task.start + 0.3 * normals(task.seeds, 5, shape=tuple(task.start.shape[1:]))
    found = foretell(task, samples, logits, eta=1e-6)
    seen = 0
    for n, row, t in found.mask.nonzero().tolist():
        prompt, response = int(samples.prompt[n, row]), int(samples.response[n, row])
        state, a = int(task.tree.states[response, t]), int(task.tree.tokens[response, t])
        p, old = (z[n, prompt, state].softmax(-1) for z in (logits, task.start))
        mine = samples.prompt[n] == prompt
        rewards = samples.fields["rewards"][n]
        advantage = (rewards[row] - rewards[mine].mean()) / (rewards[mine].std() + 1e-6)
        entropy, stale = (-(q * q.log()).sum() for q in (p, old))
        rho = p[a] / old[a]
        # The released code takes the entropy of the policy that sampled; the sign is of now.
        code = rho * advantage * (1 - p[a]) * (p[a].log() + stale)
        own = rho * advantage * p[a] * (1 - p[a]) * (p[a].log() + stale)
        share = p * (p.log() + entropy)
        exact = -rho * advantage * (share[a] - (p * share).sum())
        size = {"STEER's code": code, "own logit": own}
        for name, value in size.items():
            assert float(found.estimates[name][n, row, t].abs()) == pytest.approx(
                abs(float(value)), rel=1e-6, abs=1e-9
            )
        sign = -(advantage * (p[a].log() + entropy)).sign()
        assert found.estimates["own logit"][n, row, t].sign() == sign
        assert float(found.estimates["exact"][n, row, t]) == pytest.approx(float(exact))
        assert float(found.measured[n, row, t]) == pytest.approx(
            1e-6 * float(exact), rel=1e-3, abs=1e-11
        )
        seen += 1
    assert seen > 10


def test_both_halves_of_a_step_on_one_prompt_are_parallel():
    """Catches halves split by something other than the sign: (1 − p)·∇p and p·∇p."""
    task = token_tree([3, 8], prompts=1, vocab=3, max_length=3, answers=3)
    policy = Policy.of(task.tree, task.start)
    success = policy.mean(task.rewards)
    advantages = task.rewards - success[..., None]
    positive, negative = (
        slope(task, part, mean_token_entropy, task.start)
        for part in (advantages.clamp(min=0), advantages.clamp(max=0))
    )
    odds = (1 - success[:, 0]) / success[:, 0]
    assert (positive.abs() > 1e-4).all()
    torch.testing.assert_close(positive, odds * negative)


def test_a_mismatch_biases_all_weights_but_those_of_the_response():
    """Catches a weight the wrong way round: one token is a whole response, no mismatch no bias."""
    one, several = (token_tree([3, 8], prompts=2, max_length=length) for length in (1, 3))
    for task, noise in ((one, 0.5), (several, 0.0), (several, 0.5)):
        start = task.start
        engine = start + noise * normals(task.seeds, 6, shape=tuple(start.shape[1:]))
        found = gradients(task, start, engine)
        truth = found.pop("truth")
        right = {RESPONSE}
        right |= {TOKEN} if task is one else set()
        right |= set(found) if noise == 0 else set()
        errors = {name: float(relative_error(g, truth).max()) for name, g in found.items()}
        assert {name for name, error in errors.items() if error < 1e-12} == right
        assert all(error > 0.01 for name, error in errors.items() if name not in right)


def test_the_gradient_of_k3_is_that_of_the_other_divergence():
    """Catches a reference and policy exchanged: E[∇k3] = ∇KL(π_ref ‖ π) = π − π_ref on policy."""
    logits, reference, old = (normals(SEEDS, place, shape=(5,)) for place in (1, 2, 3))
    k3 = penalty_gradient(logits, reference, logits, "k3")
    torch.testing.assert_close(k3, logits.softmax(-1) - reference.softmax(-1))
    unbiased = penalty_gradient(logits, reference, old, "unbiased")
    policy = logits.softmax(-1)
    away = logits.log_softmax(-1) - reference.log_softmax(-1)
    exact = policy * (away - (policy * away).sum(-1, keepdim=True))
    torch.testing.assert_close(unbiased, exact)


def test_the_bias_of_k3_is_of_first_order_only_where_responses_are_fresh():
    """Catches an age or a distance that does not reach the gradient, or the wrong truth."""
    ages, distances = {"fresh": 0.0, "stale": 0.5}, (1e-3, 1e-2)
    found = penalty_bias(SEEDS, ("k3", "unbiased"), vocab=8, distances=distances, ages=ages)
    assert all(e.max() < 1e-11 for (name, _, _), e in found.items() if name == "unbiased")
    grown = found["k3", "fresh", 1e-2] / found["k3", "fresh", 1e-3]
    torch.testing.assert_close(grown, torch.full_like(grown, 10.0), rtol=0.05, atol=0.0)
    assert (found["k3", "stale", 1e-3] > 0.05).all()


def test_ratios_without_replay_carry_the_mass_left_out():
    """Catches another kept set: E[ρ] is what the new policy leaves in over what the old did."""
    task = random_bandit([3, 8], arms=6)
    new = task.start + normals(task.seeds, 9, shape=tuple(task.start.shape[1:]))
    found = ratios(task, task.start, new, top_p=0.8)
    kept = nucleus(task.start, 0.8)
    before, after = (torch.where(kept, z.softmax(-1), 0.0).sum(-1) for z in (task.start, new))
    assert ((before >= 0.8) & (before < 1)).all()
    torch.testing.assert_close(found[FULL], (after / before - 1).abs()[:, 0, 0])
    assert found[REPLAY].max() < 1e-15


def test_biases_grow_with_their_sizes():
    """Catches a size that does not reach the logits, and errors of another seed or weight."""
    task = token_tree([3, 8], prompts=2, max_length=2)
    noise = normals(task.seeds, 6, shape=tuple(task.start.shape[1:]))
    found = mismatch_bias(task, noise, (0.5, 0.001))
    assert list(found) == [
        (name, size) for size in (0.5, 0.001) for name in (NONE, TOKEN, RESPONSE)
    ]
    for name in (NONE, TOKEN):
        assert (found[name, 0.5] > 50 * found[name, 0.001]).all()
    wanted = gradients(task, task.start, task.start + 0.5 * noise)
    error = relative_error(wanted[TOKEN], wanted["truth"])
    torch.testing.assert_close(found[TOKEN, 0.5], error, rtol=0, atol=0)
    gaps = ratio_bias(task, noise, (0.5, 0.0), top_p=0.8)
    wanted = ratios(task, task.start, task.start + 0.5 * noise, top_p=0.8)
    torch.testing.assert_close(gaps[FULL, 0.5], wanted[FULL], rtol=0, atol=0)
    assert gaps[REPLAY, 0.5].max() < 1e-14
    # What the sampler leaves out is no bias of the ratio before the policy has moved.
    assert gaps[FULL, 0.0].max() < 1e-14


def test_the_gradient_with_replay_is_that_of_the_sampler():
    """Catches the gradient of the whole policy taken for it; the share left out by hand."""
    found = gradient_bias(prompt_set([3, 8], held_out=0, features=4), top_p=0.8)
    assert found[REPLAY,].max() < 1e-12
    assert found[FULL,].min() > 0.01
    task = random_bandit([3, 8], arms=6)
    policy = Policy.of(task.tree, task.start)
    measured = sampled(task, policy, top_p=0.8)
    probs, kept = task.start.softmax(-1)[:, 0, 0], nucleus(task.start, 0.8)[:, 0, 0]
    outside = torch.where(kept, 0.0, probs).sum(-1)
    torch.testing.assert_close(measured["mass outside"], outside)
    rewards = torch.where(kept, probs, 0.0) * task.rewards[:, 0]
    torch.testing.assert_close(measured["reward of samples"], rewards.sum(-1) / (1 - outside))
