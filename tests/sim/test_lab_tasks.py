"""Tasks of the laboratory and the exact quantities on them, against sums over paths by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sim.lab import draws
from sim.lab.exact import (
    Policy,
    action_values,
    covariance,
    divergence,
    entropy_to_go,
    mean_token_entropy,
    pass_at_k,
    semantic_entropy,
    state_values,
)
from sim.lab.tasks import TASKS, needle, prompt_set, token_tree, two_modes
from sim.lab.tree import grow

SEEDS = torch.tensor([5, 6, 7])


def _policies(tree, scale=1.5):
    logits = scale * draws.normals(SEEDS, 99, shape=(2, tree.size, tree.vocab))
    return logits, Policy.of(tree, logits)


def _paths(tree, logp):
    """Response → (probability, [(state, token), …]), from the successors and not from the paths."""
    found = {}

    def walk(state, prob, path):
        for token in range(tree.vocab):
            after = int(tree.successor[state, token])
            here = prob * math.exp(float(logp[state, token]))
            steps = [*path, (state, token)]
            if after >= tree.size:
                found[after - tree.size] = (here, steps)
            else:
                walk(after, here, steps)

    walk(0, 1.0, [])
    return found


def test_counters_are_splitmix64():
    """Catches a shift that repeats the sign and a wrong constant: the published first output."""
    first = draws._mixed(torch.tensor([1234567]) + draws._GOLDEN)
    assert int(first) == 6457827717110365317


def test_draws_have_their_distribution_and_ignore_other_seeds():
    """Catches correlated seeds, places or positions, and numbers outside (0, 1)."""
    seeds = torch.arange(200)
    u = draws.uniforms(seeds, 3, 1, shape=(500,))
    assert u.min() > 0
    assert u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.004)
    assert u.var() == pytest.approx(1 / 12, abs=0.002)
    other = draws.uniforms(seeds, 3, 2, shape=(500,))
    for left, right in ((u, other), (u[1:], u[:-1]), (u[:, 1:], u[:, :-1])):
        correlation = torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1]
        assert abs(correlation) < 0.015
    torch.testing.assert_close(draws.uniforms(seeds[7:8], 3, 1, shape=(500,))[0], u[7])
    z = draws.normals(seeds, 3, 1, shape=(500,))
    assert z.mean() == pytest.approx(0.0, abs=0.012)
    assert z.std() == pytest.approx(1.0, abs=0.01)


def test_a_tree_that_ends_by_hand():
    """Catches a response that goes on after its end, and truncation that is not noticed."""
    tree = grow(2, 2, end=True)
    found = sorted(
        (tokens[: int(mask.sum())], bool(cut))
        for tokens, mask, cut in zip(tree.tokens.tolist(), tree.mask, tree.truncated, strict=True)
    )
    assert found == [([0], False), ([1, 0], False), ([1, 1], True)]


@pytest.mark.parametrize(("vocab", "length", "end"), [(3, 3, False), (3, 3, True), (5, 1, False)])
def test_exact_quantities_against_sums_over_paths(vocab, length, end):
    """Catches a path through the wrong states, a value of the wrong level, entropies that mix."""
    tree = grow(vocab, length, end=end)
    logits, policy = _policies(tree)
    _, other = _policies(tree, scale=0.3)
    rewards = draws.uniforms(SEEDS, 98, shape=(2, tree.responses))
    values, after = state_values(policy, rewards), action_values(policy, rewards)
    to_go, mean = entropy_to_go(policy), mean_token_entropy(policy)
    tokens = torch.zeros(len(SEEDS)).double()
    entropy = torch.zeros(len(SEEDS)).double()
    for n, p in itertools.product(range(len(SEEDS)), range(2)):
        paths = _paths(tree, logits[n, p].log_softmax(-1))
        theirs = _paths(tree, other.logp[n, p])
        assert len(paths) == tree.responses
        assert sum(prob for prob, _ in paths.values()) == pytest.approx(1.0, rel=1e-12)
        for i, (prob, steps) in paths.items():
            assert policy.responses[n, p, i] == pytest.approx(prob, rel=1e-12)
            row = zip(tree.states[i].tolist(), tree.tokens[i].tolist(), strict=True)
            assert list(row)[: len(steps)] == steps
        whole = -sum(prob * math.log(prob) for prob, _ in paths.values())
        assert policy.sequence_entropy[n, p] == pytest.approx(whole, rel=1e-12)
        assert to_go[n, p, 0] == pytest.approx(whole, rel=1e-12)
        kl = sum(prob * math.log(prob / theirs[i][0]) for i, (prob, _) in paths.items())
        assert divergence(policy, other)[n, p] == pytest.approx(kl, rel=1e-12)
        for state, token in itertools.product(range(tree.size), range(vocab)):
            through = [(i, q) for i, (q, steps) in paths.items() if state in dict(steps)]
            mass = sum(q for _, q in through)
            worth = sum(q * float(rewards[n, p, i]) for i, q in through)
            assert policy.visits[n, p, state] == pytest.approx(mass, rel=1e-12)
            assert values[n, p, state] == pytest.approx(worth / mass, rel=1e-12)
            taken = [i for i, q in through if (state, token) in paths[i][1]]
            gain = sum(paths[i][0] * float(rewards[n, p, i]) for i in taken)
            share = sum(paths[i][0] for i in taken)
            assert after[n, p, state, token] == pytest.approx(gain / share, rel=1e-12)
        tokens[n] += sum(prob * len(steps) for prob, steps in paths.values())
        entropy[n] += whole
    torch.testing.assert_close(mean, entropy / tokens, rtol=1e-12, atol=0)


def test_impossible_tokens_are_no_nan():
    """Catches 0·(−inf) in entropies, divergences, values and covariances, behind it too."""
    tree = grow(3, 2)
    logits, _ = _policies(tree)
    logits[..., 0, 1] = -torch.inf
    logits[..., 2, 0] = -torch.inf
    policy = Policy.of(tree, logits)
    rewards = draws.uniforms(SEEDS, 98, shape=(2, tree.responses))
    after = action_values(policy, rewards)
    for value in (
        policy.sequence_entropy,
        mean_token_entropy(policy),
        entropy_to_go(policy),
        state_values(policy, rewards),
        covariance(policy, policy.logp, after),
        divergence(policy, policy),
    ):
        assert torch.isfinite(value).all()
    assert (policy.visits[..., 2] == 0).all()
    assert policy.responses.sum(-1) == pytest.approx(torch.ones(3, 2).double().numpy(), rel=1e-12)


def test_pass_at_k_by_hand():
    """Catches k off by one, and 1 − (1 − p)^k that loses a small p."""
    found = pass_at_k(torch.tensor([0.5, 1e-12, 0.0, 1.0], dtype=torch.float64), (1, 2, 256))
    expected = [[0.5, 0.75, 1 - 0.5**256], [1e-12, 2e-12, 256e-12], [0, 0, 0], [1, 1, 1]]
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_semantic_entropy_by_hand():
    """Catches answers not merged, and responses without an answer that are."""
    tree = grow(4, 1)
    policy = Policy.of(tree, torch.tensor([[[[0.4, 0.3, 0.2, 0.1]]]], dtype=torch.float64).log())
    merged = semantic_entropy(policy, torch.tensor([[[1, 1, 0, 1]]]))
    assert float(merged) == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2), rel=1e-12)
    alone = semantic_entropy(policy, torch.tensor([[[-1, -1, 0, 0]]]))
    expected = -sum(p * math.log(p) for p in (0.4, 0.3, 0.3))
    assert float(alone) == pytest.approx(expected, rel=1e-12)


def test_covariance_of_an_almost_certain_policy():
    """Catches E[xy] − E[x]E[y], which cancels to noise: the closed form of two arms."""
    tree = grow(2, 1)
    policy = Policy.of(tree, torch.tensor([[[[25.0, 0.0]]]]).double())
    x = torch.tensor([[[[1e3, 1e3 + 1.0]]]]).double()
    p = policy.probs[..., 0] * policy.probs[..., 1]
    torch.testing.assert_close(covariance(policy, x, x), p, rtol=1e-12, atol=0)


def test_priors_are_what_was_asked():
    """Catches modes renormalised after the fact, and a needle that others dilute."""
    modes = two_modes(range(5), likely=0.3, rare=0.02)
    probs = Policy.of(modes.tree, modes.start).responses
    torch.testing.assert_close(probs[:, 0, 0], torch.full((5,), 0.3).double(), rtol=1e-7, atol=0)
    torch.testing.assert_close(probs[:, 0, 1], torch.full((5,), 0.02).double(), rtol=1e-6, atol=0)
    found = needle(range(5), prior=0.01)
    success = Policy.of(found.tree, found.start).mean(found.correct.double())
    torch.testing.assert_close(success, torch.full((5, 1), 0.01).double(), rtol=1e-6, atol=0)


def test_prompts_are_graded_distinct_and_interfere():
    """Catches a grid missed, a held-out prompt that is trained on, and features that do nothing."""
    task = prompt_set(range(4), prompts=6, held_out=6)
    start = Policy.of(task.tree, task.logits(task.start))
    success = start.mean(task.correct.double())
    grid = torch.tensor([0.8, 0.01]).double().logit()
    wanted = torch.linspace(float(grid[0]), float(grid[1]), 6).sigmoid()
    for part in (success[:, :6], success[:, 6:]):
        assert ((part.logit() - wanted.logit()).abs() < 0.25).all()
    x = task.features
    assert (torch.cdist(x, x) + torch.eye(12) > 0.1).all()
    moved = task.start + torch.einsum("nf,nsv->nfsv", x[:, 0], torch.ones_like(task.start[:, 0]))
    shift = task.logits(moved) - task.logits(task.start)
    expected = torch.einsum("nf,npf->np", x[:, 0], x)[..., None, None].expand_as(shift)
    torch.testing.assert_close(shift, expected, rtol=1e-9, atol=1e-12)


def test_success_and_rightness_of_a_tree():
    """Catches a prompt without a right response, a truncated right one, a success not met."""
    task = token_tree(range(30), prompts=4, end=True)
    assert task.correct.any(-1).all()
    assert not task.correct[..., task.tree.truncated].any()
    torch.testing.assert_close(task.teacher.sum(-1), torch.ones(30, 4).double())
    close = token_tree(range(30), success=0.1, max_length=4)
    success = Policy.of(close.tree, close.start).mean(close.correct.double())
    assert (success - 0.1).abs().mean() < 0.01


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_does_not_depend_on_its_company(name):
    """Catches a generator shared by the seeds: alone or among others, the same bits."""
    together, alone = TASKS[name]([4, 9, 2]), TASKS[name]([9])
    for field in ("start", "correct", "answers", "features", "teacher"):
        value = getattr(together, field)
        if value is not None:
            torch.testing.assert_close(value[1], getattr(alone, field)[0], rtol=0, atol=1e-13)
    assert not torch.equal(together.start[0], together.start[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grow(1, 2), "vocab: expected at least 2, got 1"),
        (lambda: grow(2, 0), "max_length: expected at least 1, got 0"),
        (lambda: needle([0], prior=1.0), r"prior: expected a number in \(0, 1\), got 1.0"),
        (lambda: two_modes([0], likely=0.1, rare=0.2), "likely, rare: expected"),
        (lambda: TASKS["random_bandit"]([0], right=16), "right: expected 1 to 15, got 16"),
        (lambda: token_tree([0], answers=1), "answers: expected at least 2, got 1"),
        (lambda: prompt_set([0], easiest=0.1, hardest=0.5), "easiest, hardest: expected"),
    ],
)
def test_bad_sizes_are_named(call, message):
    """Catches a task that silently means something else than was asked."""
    with pytest.raises(ValueError, match=message):
        call()
