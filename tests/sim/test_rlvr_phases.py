"""What comes before the first step, or in place of sampling: survey, value head, stored data."""

from __future__ import annotations

import copy

import pytest
import torch

from entropy_ext.recipes import Recipe, Sampling, Vapo
from entropy_ext.rl import Rollout
from entropy_ext.rl.semantic_entropy import exact_answers, semantic_entropy, sequence_score
from sim.rlvr.model import build_model
from sim.rlvr.options import configured
from sim.rlvr.task import ChainSum
from sim.rlvr.trainer import Trainer
from sim.rlvr.warmup import unfinished, warm_up


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


@pytest.fixture(scope="module")
def task():
    return ChainSum(size=200, seed=0, digits=1)


@pytest.fixture(scope="module")
def warm(task):
    model = build_model(vocab_size=16, seed=1, hidden_size=32, layers=1)
    options = {"max_length": 6, "seed": 0, "batch": 64, "learning_rate": 1e-2}
    warm_up(model, task, task, target=0.3, max_steps=200, **options)
    return model


def test_an_interrupted_warm_up_goes_on_as_if_it_had_not_been(task):
    """Catches minutes of supervised steps that Ctrl-C throws away, or that go on differently."""
    options = {"max_length": 6, "seed": 0, "batch": 16, "target": 1.0, "max_steps": 6}
    straight, first, second = (
        build_model(vocab_size=16, seed=1, hidden_size=32, layers=1) for _ in range(3)
    )
    warm_up(straight, task, task, check_every=2, **options)
    kept = []

    def stop(state):
        kept.append(copy.deepcopy(state))
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warm_up(first, task, task, check_every=2, save=stop, **options)
    assert unfinished(kept[-1])
    assert kept[-1]["step"] == 4
    warm_up(second, task, task, check_every=2, begun=kept[-1], **options)
    assert _same([p.detach() for p in straight.parameters()], second)
    assert not unfinished({"model": second.state_dict()})


def _trainer(warm, task, recipe, **options):
    arguments = {
        "steps": 10,
        "seed": 0,
        "prompts": 6,
        "learning_rate": 1e-3,
        "max_length": 6,
        "micro_batch": 50,
    }
    return Trainer(copy.deepcopy(warm), task, recipe, **(arguments | options))


def _weights(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def _same(before, module):
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


class FirstToken(Vapo):
    """Rewards what any text but the empty one tells."""

    def shape_rewards(self, rollout):
        return (rollout.tokens[:, 0] % 2).to(rollout.rewards.dtype)


def test_pre_training_teaches_the_critic_and_leaves_the_policy(warm, task):
    sampling = Sampling(group_size=8)
    recipe = FirstToken(minibatches=4, value_pretraining=25, sampling=sampling)
    trainer = _trainer(warm, task, recipe, prompts=32, learning_rate=5e-3, micro_batch=256)
    policy, critic = _weights(trainer.model), _weights(trainer.critic)
    rows = []
    while trainer.preparations > 0:
        rows.append(trainer.prepare())
    assert len(rows) == trainer.pretrained == 25
    assert trainer.done == 0
    assert _same(policy, trainer.model)
    assert not _same(critic, trainer.critic)
    # Zeros predict the returns of 0 and 1 worse than their mean does; a trained head, better.
    explained = [row["explained_variance"] for row in rows]
    assert explained[0] < 0
    assert sum(explained[-5:]) / 5 > 0.3
    assert rows[-1]["value_loss"] < rows[0]["value_loss"]


def test_the_critic_has_its_own_learning_rate(warm, task):
    trainer = _trainer(warm, task, configured("vapo", {"group_size": 4}))
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-3
    assert trainer.critic_optimizer.param_groups[0]["lr"] == 2e-3
    policies = {id(p) for p in trainer.model.parameters()}
    assert not policies & {id(p) for p in trainer.critic.parameters()}


def test_pre_training_without_values_is_an_error(warm, task):
    recipe = Recipe(sampling=Sampling(group_size=2))
    recipe.value_pretraining = 1
    with pytest.raises(ValueError, match="recipe grpo: value_pretraining without needing values"):
        _trainer(warm, task, recipe).prepare()


class Watching(Recipe):
    """Keeps every rollout, and moves the policy whatever the answers are."""

    name = "watching"
    sampling = Sampling(group_size=3, offline=True)

    def __init__(self):
        super().__init__(minibatches=1)
        self.seen = []

    def shape_rewards(self, rollout):
        self.seen.append(rollout)
        return (rollout.tokens.sum(-1) % 2).to(rollout.rewards.dtype)


def test_stored_responses_are_sampled_once_by_the_first_policy(warm, task):
    """Catches sampling on the way, and an old_logp that follows the policy."""
    recipe = Watching()
    trainer = _trainer(warm, task, recipe, stored_prompts=8)
    start = copy.deepcopy(trainer.model)
    rows = [trainer.step() for _ in range(4)]
    assert not _same(_weights(start), trainer.model)
    known = {}
    for rollout in recipe.seen:
        assert len(rollout.prompt.unique()) == 6
        for row in range(len(rollout.mask)):
            response = tuple(rollout.tokens[row][rollout.mask[row]].tolist())
            logp = tuple(rollout.old_logp[row][rollout.mask[row]].tolist())
            assert known.setdefault((rollout.prompt[row].item(), response), logp) == logp
    assert len({prompt for prompt, _ in known}) == 8
    # What the policy now thinks of them is measured all the same.
    assert rows[0]["kl_reference"] == 0
    assert rows[-1]["kl_reference"] > 1e-4
    assert len({row["entropy"] for row in rows}) == 4


def test_stored_data_without_a_wanted_prompt_is_an_error(warm, task):
    trainer = _trainer(warm, task, Watching(), stored_prompts=8)
    trainer.step()
    weights = torch.ones(len(task))
    weights[trainer.collector.stored.problems] = 0
    with pytest.raises(ValueError, match="stored data: none of its problems has a weight"):
        trainer.collector.stored.draw(weights, 6, trainer.generator)


class Curriculum(Recipe):
    """Draws the prompts on which the answers disagree."""

    name = "curriculum"
    sampling = Sampling(group_size=8)

    def __init__(self):
        super().__init__(minibatches=1)
        self.stats = None

    def select_prompts(self, prompt_stats, progress):
        self.stats = prompt_stats
        return (prompt_stats.semantic_entropy > 0.5).float()


def test_a_curriculum_knows_its_prompts_before_it_starts(warm, task):
    """The survey's entropies are those of responses sampled anew, up to chance; catches entropies
    filed under the wrong problem."""
    recipe = Curriculum()
    trainer = _trainer(warm, task, recipe, survey_prompts=20)
    assert trainer.preparations == 4
    while trainer.preparations > 0:
        assert trainer.prepare() == {}
    asked = trainer.collector.collect(0, 0.0).batch.rollout
    entropy = recipe.stats.semantic_entropy
    measured = ~entropy.isnan()
    assert measured.sum() == 20
    assert 0 < (entropy[measured] > 0.5).sum() < 20
    assert (entropy[asked.prompt] > 0.5).all()
    assert torch.equal(recipe.stats.domain, task.domain)

    problems = measured.nonzero().flatten()
    trainer.recipe.sampling = trainer.collector.recipe.sampling = Sampling(group_size=200)
    samples = trainer.collector._sample(problems)
    repeated = problems.repeat_interleave(200)
    stats = trainer.collector._stats(trainer.model, repeated, samples)
    rollout = Rollout(
        tokens=samples.tokens,
        mask=samples.mask,
        rewards=torch.zeros(len(repeated)),
        prompt=repeated,
        old_logp=stats.logp,
        max_length=6,
        step=0,
        progress=0.0,
        answers=[task.answer(text) for text in trainer.collector._texts(samples)],
    )
    exact = semantic_entropy(
        sequence_score(stats.logp, samples.mask), repeated, exact_answers(rollout)
    )[::200]
    assert torch.corrcoef(torch.stack([exact, entropy[problems]]))[0, 1] > 0.6


def test_attempts_and_successes_are_counted(warm, task):
    recipe = Curriculum()
    trainer = _trainer(warm, task, recipe, survey_prompts=20)
    while trainer.preparations > 0:
        trainer.prepare()
    collected = [trainer.collector.collect(step, 0.0) for step in range(2)]
    trainer.collector.prompts.weights(recipe, 0.0)
    prompts = torch.cat([c.batch.rollout.prompt for c in collected])
    rewards = torch.cat([c.batch.rollout.rewards for c in collected])
    assert torch.equal(recipe.stats.attempts, torch.bincount(prompts, minlength=len(task)))
    expected = torch.bincount(prompts, rewards.double(), minlength=len(task)).long()
    assert torch.equal(recipe.stats.successes, expected)
    assert recipe.stats.successes.sum() > 0


def test_stored_data_serves_every_stage_of_a_curriculum(warm, task):
    """Catches a store of the first stage's prompts alone, which leaves the last with none."""
    recipe = configured("bcpg_nsa+semantic_curriculum", {"group_size": 8})
    trainer = _trainer(warm, task, recipe, survey_prompts=30, stored_prompts=30)
    while trainer.preparations > 0:
        trainer.prepare()
    prompts = [
        set(trainer.collector._draw(0, 0, progress)[0].rollout.prompt.tolist())
        for progress in (0.0, 0.9)
    ]
    assert len(prompts[0]) == len(prompts[1]) == 6
    assert prompts[0] != prompts[1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda count: torch.zeros(count), "recipe odd: no prompt has a weight above 0"),
        (lambda count: torch.ones(count + 1), r"recipe odd: expected prompt weights of shape"),
    ],
)
def test_impossible_weights_are_told(warm, task, weights, message):
    class Odd(Recipe):
        name = "odd"

        def select_prompts(self, prompt_stats, progress):
            return weights(len(prompt_stats.attempts))

    trainer = _trainer(warm, task, Odd(sampling=Sampling(group_size=2)), survey_prompts=6)
    trainer.prepare()
    with pytest.raises(ValueError, match=message):
        trainer.step()


def test_few_wanted_prompts_make_few_groups(warm, task):
    """Fewer than a step's groups have a weight: each is drawn once, none twice."""

    class Few(Recipe):
        name = "few"

        def select_prompts(self, prompt_stats, progress):
            return (torch.arange(len(prompt_stats.attempts)) < 3).float()

    trainer = _trainer(warm, task, Few(sampling=Sampling(group_size=2)), survey_prompts=len(task))
    while trainer.preparations > 0:
        trainer.prepare()
    batch = trainer.collector.collect(0, 0.0).batch
    assert sorted(batch.rollout.prompt.tolist()) == [0, 0, 1, 1, 2, 2]
