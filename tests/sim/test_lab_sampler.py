"""Sampling: responses have their probabilities, and what a recipe is told of them is true."""

from __future__ import annotations

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.recipes import Sampling
from sim.lab.exact import Policy, action_values, state_values
from sim.lab.harness import Trainer
from sim.lab.held import hold, split
from sim.lab.sampler import Draw, sample
from tests.small_tree import small_tree


def _samples(task, sampling, *, groups=3, **options):
    logits = task.logits(task.start)
    weights = torch.ones(len(task.seeds), len(range(task.prompts)[task.trained])).double()
    draw = Draw(step=0, progress=0.0, refill=0, stored=None)
    return sample(task, logits, logits, weights, draw, sampling=sampling, groups=groups, **options)


def _rollout(samples, seed):
    """What a recipe sees of one seed, fillers left out."""
    for held, _ in split(hold(samples), samples.live):
        if seed in held.seeds:
            return held.rollouts()[held.seeds.tolist().index(seed)]
    raise AssertionError(f"nothing was drawn for seed {seed}")


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_responses_have_their_probabilities(temperature):
    """Catches an inverse that is off by one, and a temperature that is not applied."""
    task = small_tree([3])
    samples = _samples(task, Sampling(group_size=10_000, temperature=temperature))
    probs = Policy.of(task.tree, task.start / temperature).responses[0]
    for prompt in range(3):
        mine = samples.response[0][samples.prompt[0] == prompt]
        share = mine.bincount(minlength=task.tree.responses) / 10_000
        spread = (probs[prompt] * (1 - probs[prompt]) / 10_000).sqrt()
        assert ((share - probs[prompt]).abs() < 5 * spread + 1e-9).all()


def test_rollout_fields_are_what_the_task_knows():
    """Catches a value, log-probability or verdict gathered from another prompt, state or seed."""
    task = small_tree([3, 8], end=True)
    temperature = 0.8
    samples = _samples(task, Sampling(group_size=50, temperature=temperature))
    policy = Policy.of(task.tree, task.start / temperature)
    values = state_values(policy, task.rewards)
    after = torch.cat([values, task.rewards], -1)[..., task.tree.successor]
    can = action_values(Policy.of(task.tree, torch.zeros_like(task.start)), task.rewards) > 0
    for n in range(2):
        rollout = _rollout(samples, n)
        for row in range(0, 150, 7):
            prompt, response = int(samples.prompt[n, row]), int(samples.response[n, row])
            assert rollout.prompt[row] == prompt
            assert rollout.correct[row] == task.correct[n, prompt, response]
            assert rollout.rewards[row] == float(task.correct[n, prompt, response])
            assert rollout.truncated[row] == task.tree.truncated[response]
            answer = int(task.answers[n, prompt, response])
            assert rollout.answers[row] == (None if answer < 0 else answer)
            for t in range(int(rollout.lengths[row])):
                state, token = int(task.tree.states[response, t]), int(rollout.tokens[row, t])
                place = (n, prompt, state)
                assert rollout.old_logp[row, t] == pytest.approx(
                    float(policy.logp[(*place, token)]), rel=1e-12
                )
                assert rollout.old_entropy[row, t] == pytest.approx(
                    float(policy.token_entropy[place]), rel=1e-12
                )
                assert rollout.values[row, t] == pytest.approx(float(values[place]), rel=1e-12)
                assert rollout.step_correct[row, t] == can[(*place, token)]
    # E[A | s] = 0 of exact values: the mean over the policy's own tokens.
    assert ((policy.probs * (after - values[..., None])).sum(-1).abs() < 1e-14).all()


def test_truncated_sampling_and_its_support():
    """Catches tokens outside the kept set, and log-probabilities not renormalised over it."""
    task = small_tree([3, 8])
    sampling = Sampling(group_size=200, top_k=2)
    samples = _samples(task, sampling, replay_support=True)
    plain = _samples(task, sampling)
    chosen = samples.fields["tokens"][..., None]
    assert samples.kept.gather(-1, chosen).all()
    assert (samples.kept.sum(-1) == 2).all()
    mass = (plain.fields["old_logp"] - samples.fields["old_logp"]).exp()
    state = task.tree.states[samples.response]
    seed = torch.arange(2)[:, None, None]
    probs = task.start.softmax(-1)[seed, samples.prompt[..., None], state]
    torch.testing.assert_close(mass, probs.topk(2, dim=-1).values.sum(-1))
    assert _rollout(plain, 0).support is None
    assert len(_rollout(samples, 1).support.offsets) == 600 * 3 + 1


def test_a_teacher_writes_the_last_of_each_group():
    """Catches teacher rows out of place, wrong ones, and a wrong log-probability."""
    task = small_tree([3, 8])
    rollout = _rollout(_samples(task, Sampling(group_size=8, teacher_traces=2)), 1)
    taught = rollout.teacher.all(-1)
    assert torch.equal(taught, (torch.arange(24) % 8 >= 6))
    assert rollout.correct[taught].all()
    logp = torch.where(rollout.mask, rollout.teacher_logp, 0.0).sum(-1)
    right = task.correct[1].sum(-1).double().log()
    torch.testing.assert_close(logp[taught], -right.repeat_interleave(2))


def test_prompts_follow_their_weights():
    """Catches a prompt of weight 0 that is learnt from, and one drawn twice."""
    task = small_tree([3, 8])
    weights = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]).double()
    logits = task.logits(task.start)
    counts = torch.zeros(2, 3)
    for step in range(150):
        draw = Draw(step=step, progress=0.0, refill=0, stored=None)
        samples = sample(
            task, logits, logits, weights, draw, sampling=Sampling(group_size=1), groups=1
        )
        for n in range(2):
            counts[n] += _rollout(samples, n).prompt.bincount(minlength=3)
    assert counts[1].tolist() == [0, 150, 0]
    assert counts[0, 1] == 0
    assert counts[0, 2] / 150 == pytest.approx(2 / 3, abs=0.12)
    both = sample(task, logits, logits, weights, draw, sampling=Sampling(group_size=2), groups=2)
    assert _rollout(both, 0).prompt.tolist() == [0, 0, 2, 2]
    assert _rollout(both, 1).prompt.tolist() == [1, 1]


def test_stale_and_mismatched_samplers_say_so():
    """Catches old_logp of the wrong policy: stale responses, and an engine that differs."""
    task = small_tree([4])
    trainer = Trainer(
        task, lambda: recipes.get("grpo"), steps=9, learning_rate=5.0, staleness=2, mismatch=0.1
    )
    for _ in range(3):
        trainer.step()
    samples = trainer._sample(0)
    old = samples.fields["old_logp"]
    seed = torch.zeros_like(samples.prompt)[..., None]
    place = (seed, samples.prompt[..., None], task.tree.states[samples.response])

    def logp(table):
        rows = table.log_softmax(-1)[place]
        return rows.gather(-1, samples.fields["tokens"][..., None])[..., 0]

    torch.testing.assert_close(old, logp(trainer.past[0]))
    assert (old - logp(trainer.parameters.detach())).abs().max() > 0.01
    gap = samples.fields["rollout_logp"] - old
    assert 0.03 < gap.std() < 0.2


def test_a_lasting_mismatch_is_the_same_in_every_step():
    """Catches noise added to the trained policy, drawn anew, or unknown to rollout_logp."""
    task = small_tree([4])
    noise = torch.linspace(-1, 1, 3).double().expand_as(task.start).contiguous()
    trainer = Trainer(task, lambda: recipes.get("grpo"), steps=2, learning_rate=1.0, mismatch=noise)
    for _ in range(2):
        samples = trainer._sample(0)
        place = (0, samples.prompt[0, :, None], task.tree.states[samples.response[0]])
        tokens = samples.fields["tokens"][0][..., None]
        now = trainer.parameters.detach()
        for name, table in (("rollout_logp", now + noise), ("old_logp", now)):
            expected = table.log_softmax(-1)[place].gather(-1, tokens)[..., 0]
            torch.testing.assert_close(samples.fields[name][0], expected)
        trainer.step()
