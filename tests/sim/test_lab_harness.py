"""The laboratory's harness: any recipe, its hooks in order, seeds that never meet."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.recipes import Recipe, Sampling
from sim.lab import harness
from sim.lab.exact import Policy, action_values, state_values
from sim.lab.harness import Trainer
from sim.lab.held import hold, split
from sim.lab.optimizers import Optimizer
from sim.lab.over_seeds import alike
from sim.lab.sampler import Draw, sample
from sim.lab.tasks import prompt_set, token_tree, two_modes
from sim.lab.training import train


def _small(seeds, **options):
    return token_tree(seeds, prompts=3, vocab=3, max_length=3, answers=3, **options)


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
    task = _small([3])
    samples = _samples(task, Sampling(group_size=10_000, temperature=temperature))
    probs = Policy.of(task.tree, task.start / temperature).responses[0]
    for prompt in range(3):
        mine = samples.response[0][samples.prompt[0] == prompt]
        share = mine.bincount(minlength=task.tree.responses) / 10_000
        spread = (probs[prompt] * (1 - probs[prompt]) / 10_000).sqrt()
        assert ((share - probs[prompt]).abs() < 5 * spread + 1e-9).all()


def test_rollout_fields_are_what_the_task_knows():
    """Catches a value, log-probability or verdict gathered from another prompt, state or seed."""
    task = _small([3, 8], end=True)
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
    task = _small([3, 8])
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
    task = _small([3, 8])
    rollout = _rollout(_samples(task, Sampling(group_size=8, teacher_traces=2)), 1)
    taught = rollout.teacher.all(-1)
    assert torch.equal(taught, (torch.arange(24) % 8 >= 6))
    assert rollout.correct[taught].all()
    logp = torch.where(rollout.mask, rollout.teacher_logp, 0.0).sum(-1)
    right = task.correct[1].sum(-1).double().log()
    torch.testing.assert_close(logp[taught], -right.repeat_interleave(2))


def test_prompts_follow_their_weights():
    """Catches a prompt of weight 0 that is learnt from, and one drawn twice."""
    task = _small([3, 8])
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


def test_one_step_of_grpo_against_plain_pytorch():
    """Catches a wrong gradient, normaliser, sign or step size: the update written out again."""
    task = _small([3, 8])
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


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_trains_and_no_seed_meets_another(name):
    """Catches groups, means, selections or controllers that mix seeds: alone, the same policy."""
    options = {"steps": 3, "learning_rate": 2.0, "ks": (1, 4)}
    together = train(_small([4, 9, 2]), lambda: recipes.get(name), **options)
    alone = train(_small([9]), lambda: recipes.get(name), **options)
    assert not torch.equal(together.parameters[1], _small([9]).start[0])
    torch.testing.assert_close(together.parameters[1], alone.parameters[0], rtol=0, atol=1e-10)
    assert torch.isfinite(together.parameters).all()
    for measured in ("entropy", "reward", "kl", "pass@4"):
        assert torch.isfinite(together[measured]).all()


@pytest.mark.parametrize("name", ["grpo", "nsr", "bcpg_nsa", "sent", "entropy_neutral"])
def test_hooks_for_many_seeds_at_once_are_those_of_each(name, monkeypatch):
    """Catches a mean, group or selection over the seeds of a call, parts of other seeds' order."""
    task = _small([4, 9, 2, 7], end=True)
    runs = []
    for together in (True, False):
        if not together:
            monkeypatch.setattr(harness, "alike", lambda every: False)
        trainer = Trainer(task, lambda: recipes.get(name), steps=3, learning_rate=2.0)
        assert trainer.together == together
        for _ in range(3):
            trainer.step()
        runs.append((trainer.parameters.detach(), trainer.last))
    torch.testing.assert_close(*(parameters for parameters, _ in runs), rtol=0, atol=1e-12)
    torch.testing.assert_close(*(last for _, last in runs), rtol=1e-12, atol=0)


class _Counting(Recipe):
    """A recipe of somebody's own, which may keep what it likes in its attributes."""


def test_one_recipe_stands_for_all_only_where_it_may():
    """Catches states or options of one seed that serve another's."""
    assert alike([recipes.get("grpo") for _ in range(3)])
    assert alike([recipes.get("starter") for _ in range(3)])
    for name in ("entropic", "seed_grpo", "clip_cov"):
        assert not alike([recipes.get(name) for _ in range(3)])
    assert not alike([recipes.get("grpo"), recipes.get("grpo", clip_high=0.3)])
    assert not alike([recipes.get("grpo"), recipes.get("dapo")])
    assert not alike([_Counting(), _Counting()])


def test_same_seeds_same_bits():
    """Catches any generator or order that is not fixed by the seed."""
    runs = [
        train(_small([4, 9]), lambda: recipes.get("dapo"), steps=3, learning_rate=2.0)
        for _ in range(2)
    ]
    assert torch.equal(runs[0].parameters, runs[1].parameters)


class _Recorder(Recipe):
    """Notes which hook was called, and drops whole groups at first."""

    statistics = "minibatch"
    extras = True
    minibatches = 2
    epochs = 2
    sampling = Sampling(group_size=8, refill=1)

    def __init__(self):
        super().__init__()
        self.calls = []

    def select_prompts(self, prompt_stats, progress):
        self.calls.append("select_prompts")
        return super().select_prompts(prompt_stats, progress)

    def shape_rewards(self, rollout):
        self.calls.append("shape_rewards")
        return rollout.rewards + 10.0

    def keep(self, rollout):
        self.calls.append("keep")
        assert (rollout.rewards >= 10).all()
        return (rollout.prompt % 3) != 0

    def targets(self, rollout, *, group=None):
        self.calls.append("targets")
        assert len(rollout.mask) == 24
        assert rollout.prompt.unique().tolist() == [1, 2, 4]
        return super().targets(rollout)

    def prepare(self, stats, rollout, targets, *, group=None):
        self.calls.append("prepare")
        assert stats.collision is not None
        assert not stats.logp.requires_grad
        assert len(rollout.mask) == 12
        return super().prepare(stats, rollout, targets)

    def token_loss(self, stats, rollout, targets, plan):
        self.calls.append("token_loss")
        assert stats.logp.requires_grad
        return super().token_loss(stats, rollout, targets, plan)

    def after_step(self, metrics):
        self.calls.append("after_step")
        assert metrics["kl_reference"] > 0
        return super().after_step(metrics)._replace(reset_reference=True, reset_optimizer=True)


def test_hooks_come_in_the_documented_order():
    """Catches a hook skipped or out of order, a refill not drawn, a request not carried out."""
    trainer = Trainer(_small([4, 9]), _Recorder, steps=2, learning_rate=1.0, optimizer="adam")
    trainer.step()
    sampled = ["select_prompts", "shape_rewards", "keep"]
    update = ["prepare", "token_loss"]
    expected = [*sampled, *sampled, "targets", *update * 4, "after_step"]
    assert trainer.recipes[1].calls == expected
    assert torch.equal(trainer.reference, trainer.parameters.detach())
    assert (trainer.optimizer.steps == 0).all()
    assert trainer.attempts.sum(-1).tolist() == [48, 48]


def test_the_divergence_from_the_reference_is_that_before_a_reset():
    """Catches a divergence from the start, or one measured when it is 0 again."""
    trainer = Trainer(_small([4, 9]), _Recorder, steps=2, learning_rate=1.0)
    assert trainer.measure()["kl_reference"].isnan().all()
    trainer.step()
    before = trainer.policy
    trainer.step()
    found, now = trainer.measure(), trainer.policy
    gap = (now.responses * (now.response_logp - before.response_logp)).sum(-1).mean(-1)
    torch.testing.assert_close(found["kl_reference"] * found["length"], gap)
    assert (found["kl_reference"] < found["kl"] / found["length"]).all()


class _Picky(recipes.get("deepseek_v32").__class__):
    """Drops the first prompt's responses, so that two batches must be joined."""

    minibatches = 2
    sampling = Sampling(group_size=6, top_k=2, refill=1)

    def keep(self, rollout):
        return (rollout.prompt % 3) != 0


def test_joined_batches_keep_their_supports():
    """Catches kept sets, statistics or responses that part ways when batches are joined."""
    trainer = Trainer(_small([4, 9]), _Picky, steps=2, learning_rate=1.0, mismatch=0.05)
    (held,) = trainer._collect()
    assert len(held) == 18
    rollout, kept = held.rollouts()[1], held.own["kept"][1]
    assert rollout.prompt.unique().tolist() == [1, 2, 4]
    assert torch.equal(rollout.tokens, trainer.task.tree.tokens[held.own["response"][1]])
    assert torch.equal(rollout.prompt % 3, held.own["prompt"][1])
    for row, t in ((0, 0), (7, 2), (17, 1)):
        support = rollout.rows(torch.tensor([row])).support
        ids = support.ids[support.offsets[t] : support.offsets[t + 1]]
        assert torch.equal(ids.long(), kept[row, t].nonzero()[:, 0])
        assert kept[row, t, rollout.tokens[row, t]]
    torch.testing.assert_close(held.stats["support_logp"][1], rollout.old_logp, rtol=0, atol=0)
    trainer.step()
    trainer.step()
    assert torch.isfinite(trainer.parameters).all()
    assert not torch.equal(trainer.parameters.detach(), trainer.task.start)


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


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_learning_rates_of_each_seed(optimizer):
    """Catches a rate that falls to another seed: the same seed twice, at two rates."""
    both, alone = (_small(seeds) for seeds in ([4, 4], [4]))
    rates = torch.tensor([0.5, 0.1], dtype=torch.float64)
    options = {"steps": 2, "optimizer": optimizer}
    together = train(both, lambda: recipes.get("grpo"), learning_rate=rates, **options)
    for n, rate in enumerate(rates.tolist()):
        single = train(alone, lambda: recipes.get("grpo"), learning_rate=rate, **options)
        torch.testing.assert_close(together.parameters[n], single.parameters[0], rtol=0, atol=1e-12)


def test_stale_and_mismatched_samplers_say_so():
    """Catches old_logp of the wrong policy: stale responses, and an engine that differs."""
    task = _small([4])
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
    task = _small([4])
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


def test_a_critic_learns_the_value_function():
    """Catches a value table that is not trained, or trained on other states' returns."""
    task = _small([4])
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


def test_what_a_task_does_not_know_is_refused():
    """Catches a recipe that would learn from a field which is not there."""
    with pytest.raises(ValueError, match="recipe luffy needs teacher: not known to two_modes"):
        Trainer(two_modes([0]), lambda: recipes.get("luffy"), steps=1, learning_rate=1.0)
