"""The optional fields of a rollout: made when needed, and with the right numbers in them."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from entropy_ext.recipes import Recipe, Sampling, StepActions
from entropy_ext.rl import Rollout
from sim.rlvr.batch import concatenate
from sim.rlvr.fields import SUPPLIED
from sim.rlvr.model import build_model, response_stats
from sim.rlvr.sampling import keep_most_likely
from sim.rlvr.task import ChainSum, CharTokenizer
from sim.rlvr.trainer import Trainer

OPTIONAL = {field.name for field in fields(Rollout) if field.default is None}


class Everything(Recipe):
    name = "everything"
    needs = SUPPLIED
    sampling = Sampling(group_size=4, top_p=0.8, temperature=0.9, teacher_traces=1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


@pytest.fixture(scope="module")
def task():
    return ChainSum(size=200, seed=0, terms=3, digits=1)


def _trainer(task, recipe, **options):
    model = build_model(vocab_size=16, seed=2, hidden_size=32, layers=2)
    with torch.no_grad():
        # Sharper than at initialisation, or top-p would leave nearly all tokens.
        model.lm_head.weight.mul_(20)
    arguments = {
        "steps": 4,
        "seed": 0,
        "prompts": 6,
        "learning_rate": 1e-3,
        "max_length": 9,
        "micro_batch": 7,
    }
    return Trainer(model, task, recipe, **(arguments | options))


@pytest.fixture(scope="module")
def trainer(task):
    trainer = _trainer(task, Everything())
    with torch.no_grad():
        for parameter in trainer.reference.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
        trainer.critic.head.weight.normal_()
    return trainer


@pytest.fixture(scope="module")
def batch(trainer):
    return trainer.collector.collect(0, 0.0).batch


def test_nothing_is_supplied_that_is_not_needed(task):
    """A recipe that reads a field without naming it in `needs` must find nothing there."""
    assert SUPPLIED == OPTIONAL
    for needs in ({}, {"truncated", "answers"}, {"support"}):
        recipe = Recipe(sampling=Sampling(group_size=2))
        recipe.needs = frozenset(needs)
        rollout = _trainer(task, recipe).collector.collect(0, 0.0).batch.rollout
        assert {name for name in OPTIONAL if getattr(rollout, name) is not None} == set(needs)


def test_a_teacher_s_solution_stands_in_every_group(task, batch):
    rollout, tokenizer = batch.rollout, CharTokenizer()
    assert rollout.prompt.tolist() == [p for p in rollout.prompt[::4].tolist() for _ in range(4)]
    assert rollout.teacher.any(-1).tolist() == [False, False, False, True] * 6
    assert torch.equal(rollout.teacher[3::4], rollout.mask[3::4])
    for row in range(3, 24, 4):
        problem = rollout.prompt[row].item()
        text = tokenizer.decode(rollout.tokens[row].tolist())
        assert text == task.solutions[problem]
        assert rollout.mask[row].sum() == len(text) + 1
        assert rollout.correct[row]
        assert not rollout.truncated[row]
    # It writes with certainty, whatever the policy thinks.
    assert torch.equal(rollout.teacher_logp, torch.zeros_like(rollout.teacher_logp))
    assert not rollout.rollout_logp[3::4].any()
    assert rollout.old_logp[3::4][rollout.mask[3::4]].max() < -0.01


def test_responses_are_judged_by_the_checker(task, batch):
    rollout, tokenizer = batch.rollout, CharTokenizer()
    rows = zip(rollout.tokens.tolist(), rollout.mask.sum(-1).tolist(), strict=True)
    texts = [tokenizer.decode(ids[:length]) for ids, length in rows]
    assert list(rollout.answers) == [task.answer(text) for text in texts]
    assert torch.equal(rollout.correct, task.score(rollout.prompt.tolist(), texts))
    assert torch.equal(rollout.domain, task.domain[rollout.prompt])
    steps = task.score_steps(rollout.prompt.tolist(), rollout.tokens, rollout.mask)
    assert torch.equal(rollout.step_correct, steps)
    assert torch.equal(rollout.step_correct[3::4], rollout.mask[3::4])
    cut = rollout.mask.all(-1) & (rollout.tokens[:, -1] != tokenizer.eos)
    assert torch.equal(rollout.truncated, cut)
    assert 0 < cut.sum() < 18


def test_kept_sets_are_those_that_were_drawn_from(trainer, batch):
    """Catches sets of the wrong token, and log-probabilities of the whole distribution."""
    rollout = batch.rollout
    with torch.no_grad():
        logits = trainer.model(
            input_ids=torch.cat([batch.prompt, rollout.tokens[:, :-1]], dim=1),
            attention_mask=torch.cat([batch.prompt_mask, rollout.mask[:, :-1]], dim=1).long(),
            position_ids=(
                torch.cat([batch.prompt_mask, rollout.mask[:, :-1]], dim=1).long().cumsum(-1) - 1
            ).clamp(min=0),
            logits_to_keep=rollout.tokens.shape[1],
        ).logits
    kept = keep_most_likely(logits.flatten(0, 1) / 0.9, None, 0.8).unflatten(0, rollout.mask.shape)
    offsets, ids = rollout.support.offsets, rollout.support.ids
    sizes = []
    for row in range(24):
        for t in range(rollout.mask.shape[1]):
            at = row * rollout.mask.shape[1] + t
            got = ids[offsets[at] : offsets[at + 1]].tolist()
            wanted = torch.isfinite(kept[row, t]).nonzero().flatten().tolist()
            if not rollout.mask[row, t]:
                wanted = []
            elif row % 4 == 3:
                wanted = list(range(16))
            assert got == wanted
            sizes.append(len(got))
    assert len({size for size in sizes if 0 < size < 16}) > 2
    own = rollout.mask & ~rollout.teacher
    expected = kept.log_softmax(-1).gather(-1, rollout.tokens[..., None]).squeeze(-1)
    torch.testing.assert_close(rollout.old_logp[own], expected[own], rtol=0, atol=2e-5)
    torch.testing.assert_close(rollout.rollout_logp[own], expected[own], rtol=0, atol=2e-5)
    p = kept.softmax(-1)
    entropy = -torch.where(p > 0, p * p.log(), 0.0).sum(-1)
    torch.testing.assert_close(rollout.old_entropy[own], entropy[own], rtol=0, atol=2e-5)


def test_reference_and_critic_are_asked(trainer, batch):
    rollout = batch.rollout
    with torch.no_grad():
        reference = response_stats(
            trainer.reference, *batch.texts, temperature=0.9, support=rollout.support
        )
        values = trainer.critic(*batch.texts)
    torch.testing.assert_close(rollout.ref_logp, reference.support_logp, rtol=0, atol=2e-5)
    torch.testing.assert_close(rollout.values, values, rtol=0, atol=2e-5)
    assert values[rollout.mask].std() > 0.1
    assert (rollout.ref_logp - rollout.old_logp)[rollout.mask].abs().max() > 0.01


def test_a_value_knows_the_text_before_its_token_and_no_more(trainer, batch):
    """Catches a value that sees the token it is to judge: an advantage would then be 0."""
    prompt, prompt_mask, tokens, mask = (x[:1] for x in batch.texts)
    full = torch.ones_like(mask)
    with torch.no_grad():
        before = trainer.critic(prompt, prompt_mask, tokens, full)
        tokens = tokens.clone()
        tokens[0, 3] = (tokens[0, 3] + 1) % 16
        after = trainer.critic(prompt, prompt_mask, tokens, full)
    assert torch.equal(before[0, :4], after[0, :4])
    assert (before[0, 4:] != after[0, 4:]).all()


def test_batches_of_different_length_join(trainer):
    """Every field of every response survives, kept sets and answers included."""
    long = trainer.collector.collect(1, 0.25).batch
    short = long.rows(torch.arange(8))
    width = int(short.rollout.mask.sum(-1).min())
    rows = (short.rollout.mask.sum(-1) == width).nonzero().flatten()
    cut = _narrowed(short.rows(rows), width)
    joined = concatenate([cut, long])
    assert torch.equal(joined.rollout.mask[: len(rows), :width], cut.rollout.mask)
    assert not joined.rollout.mask[: len(rows), width:].any()
    for part, at in ((cut, slice(0, len(rows))), (long, slice(len(rows), None))):
        again = joined.rows(at)
        inside, mask = again.rollout.mask, part.rollout.mask
        for name in ("tokens", "old_logp", "ref_logp", "values", "step_correct", "teacher"):
            got, wanted = getattr(again.rollout, name), getattr(part.rollout, name)
            assert torch.equal(got[inside], wanted[mask])
        assert torch.equal(again.rollout.support.ids, part.rollout.support.ids)
        got = again.rollout.support.offsets.diff().view(inside.shape)
        assert torch.equal(got[inside], part.rollout.support.offsets.diff().view(mask.shape)[mask])
        assert torch.equal(again.stats.support_logp[inside], part.stats.support_logp[mask])
        assert list(again.rollout.answers) == list(part.rollout.answers)


def _narrowed(batch, width):
    """The same responses without the padding behind column `width`."""
    rollout = batch.rollout
    changes = {
        name: value[:, :width]
        for name, value in vars(rollout).items()
        if isinstance(value, torch.Tensor) and value.ndim == 2
    }
    columns = torch.arange(rollout.mask.numel()).view(rollout.mask.shape)[:, :width]
    changes["support"] = rollout.support.rows(columns.flatten())
    return type(batch)(
        batch.prompt,
        batch.prompt_mask,
        rollout.replace(**changes),
        type(batch.stats)._make(None if x is None else x[:, :width] for x in batch.stats),
        batch.sampler_logp[:, :width],
    )


def test_only_the_policy_s_own_responses_are_measured(task):
    """Catches a reward that rises because the teacher is right."""
    recipe = Recipe(sampling=Sampling(group_size=4, teacher_traces=2))
    trainer = _trainer(task, recipe)
    batch, metrics = trainer.collector.collect(0, 0.0)
    assert (batch.rollout.rewards.view(6, 4)[:, 2:] == 1).all()
    own = batch.rollout.rewards.view(6, 4)[:, :2]
    assert metrics["sampled"] == 12
    assert metrics["reward"] == own.mean().item() < 0.5


def test_teachers_need_room(task):
    with pytest.raises(ValueError, match="teacher_traces: expected 0 to 3 in a group, got 4"):
        _trainer(task, Recipe(sampling=Sampling(group_size=4, teacher_traces=4)))
    # Of which sampling one response with three traces beside it is not a case.
    trainer = _trainer(task, Recipe(sampling=Sampling(group_size=4, teacher_traces=3)))
    assert trainer.step()["sampled"] > 0
    recipe = Recipe(sampling=Sampling(group_size=4, teacher_traces=1))
    with pytest.raises(ValueError, match=r"max_length: expected at least 9, .* got 8"):
        _trainer(task, recipe, max_length=8)


def test_a_reset_reference_is_the_policy_from_then_on(task):
    """Catches a collector that goes on asking the first reference."""

    class Resetting(Recipe):
        name = "resetting"
        needs = frozenset({"ref_logp"})

        def shape_rewards(self, rollout):
            return (rollout.tokens.sum(-1) % 2).to(rollout.rewards.dtype)

        def after_step(self, metrics):
            return StepActions(reset_reference=self.reset)

    divergences = {}
    for reset in (True, False):
        recipe = Resetting(sampling=Sampling(group_size=4))
        recipe.reset = reset
        trainer = _trainer(task, recipe)
        trainer.step()
        rollout = trainer.collector.collect(1, 0.25).batch.rollout
        divergences[reset] = (rollout.ref_logp - rollout.old_logp).abs().max().item()
    assert divergences[True] == 0
    assert divergences[False] > 1e-3
