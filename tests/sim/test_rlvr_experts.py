"""Mixtures of experts: routing recorded while sampling and replayed while training."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from rich.console import Console

from entropy_ext.recipes import Recipe, Sampling
from entropy_ext.rl.losses import TokenLoss
from sim.rlvr.drift import routing_drift
from sim.rlvr.experts import FREE, RoutedMLP, replayed, routes
from sim.rlvr.model import build_model, in_precision, response_stats
from sim.rlvr.routing import compare_routing
from sim.rlvr.routing_command import drift_table
from sim.rlvr.task import ChainSum
from sim.rlvr.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


@pytest.fixture(scope="module")
def task():
    return ChainSum(size=200, seed=0, digits=1)


def _model(experts=2):
    model = build_model(vocab_size=16, seed=2, hidden_size=32, layers=2, experts=experts)
    with torch.no_grad():
        # As at initialisation both experts are nearly alike and nearly nothing.
        for name, parameter in model.named_parameters():
            if "mlp" in name or "lm_head" in name:
                parameter.mul_(8)
    return model


def _trainer(task, recipe=None, **options):
    recipe = Recipe(sampling=Sampling(group_size=4)) if recipe is None else recipe
    arguments = {
        "steps": 4,
        "seed": 0,
        "prompts": 8,
        "learning_rate": 1e-2,
        "max_length": 5,
        "micro_batch": 7,
    }
    return Trainer(_model(), task, recipe, **(arguments | options))


@pytest.fixture(scope="module")
def batch(task):
    return _trainer(task).collector.collect(0, 0.0).batch


def test_a_token_goes_through_one_expert_weighed_by_its_router():
    torch.manual_seed(0)
    layer: RoutedMLP = _model(3).model.layers[0].mlp
    hidden = torch.randn(2, 5, 32)
    got = layer(hidden)
    for row in range(2):
        for at in range(5):
            p = layer.router(hidden[row, at]).softmax(-1)
            chosen = int(p.argmax())
            assert layer.chosen[row, at] == chosen
            expected = p[chosen] * layer.experts[chosen](hidden[row, at])
            torch.testing.assert_close(got[row, at], expected)
    assert len(layer.chosen.unique()) > 1


def test_replay_takes_the_recorded_expert_and_still_teaches_the_router():
    torch.manual_seed(0)
    model = _model()
    layer = model.model.layers[0].mlp
    tokens = torch.randint(16, (2, 5))
    model(input_ids=tokens)
    own = routes(model)
    assert own.shape == (2, 5, 2)
    other = 1 - own
    other[0, 2] = FREE
    with replayed(model, other):
        model(input_ids=tokens).logits.sum().backward()
        used = routes(model)
    assert torch.equal(used[other != FREE], other[other != FREE])
    assert torch.equal(used[0, 2, 0], own[0, 2, 0])
    assert layer.router.weight.grad.abs().max() > 1e-6
    model(input_ids=tokens)
    assert torch.equal(routes(model), own)


def test_replay_ends_with_an_error_inside():
    model = _model()
    with pytest.raises(RuntimeError, match="inside"), replayed(model, torch.ones(1, 1, 2).long()):
        raise RuntimeError("inside")
    assert model.model.layers[0].mlp.replay is None
    with (
        pytest.raises(ValueError, match=r"expected 2 routed layer\(s\), got 3"),
        replayed(model, torch.ones(1, 1, 3).long()),
    ):
        pass


def test_a_model_without_experts_has_no_routes():
    model = build_model(vocab_size=16, seed=0, hidden_size=32, layers=1)
    model(input_ids=torch.ones(1, 2, dtype=torch.int64))
    assert routes(model) is None


def test_sampling_records_what_training_would_choose(task, batch):
    """The same model in the same precision: catches a routing shifted by a token or a group."""
    model = _model()
    response_stats(model, *batch.texts)
    seen = torch.cat([batch.prompt_mask, batch.rollout.mask[:, :-1]], dim=1)
    assert torch.equal(routes(model)[seen], batch.routing[seen])
    shares = batch.routing[seen].float().mean(0)
    assert ((shares > 0.05) & (shares < 0.95)).any()


def test_only_kept_routing_reaches_the_loss(task, batch):
    """Spoil the recorded routing: a trainer that keeps it changes, one that does not stays."""
    updates = {}
    for keep in (True, False):
        for spoilt in (True, False):
            trainer = _trainer(task, keep_routing=keep)
            routing = 1 - batch.routing if spoilt else batch.routing
            changed = type(batch)(**(vars(batch) | {"routing": routing}))
            plans = next(trainer._parts_of(changed))
            trainer.recipe.policy_loss = lambda stats, *rest: _likelihood(stats)
            trainer._update(*plans)
            updates[keep, spoilt] = torch.cat([p.flatten() for p in trainer.model.parameters()])
    assert torch.equal(updates[False, True], updates[False, False])
    assert not torch.equal(updates[True, True], updates[True, False])
    torch.testing.assert_close(updates[True, False], updates[False, False])


def _likelihood(stats):
    return TokenLoss(-stats.logp, {})


def test_drift_is_what_rerouting_adds(task, batch):
    """A router of the opposite opinion: kept routing sees no drift but the router's probability."""
    trainer = _trainer(task)
    drift = routing_drift(trainer.model, batch, trainer.scorer, "before")
    assert drift["rerouted_before"] == 0
    assert drift["drift_before_free"] == drift["drift_before_kept"] < 1e-5
    assert "drift_before_free_rerouted" not in drift

    turned = copy.deepcopy(trainer.model)
    with torch.no_grad():
        turned.model.layers[1].mlp.router.weight.neg_()
    drift = routing_drift(turned, batch, trainer.scorer, "after")
    assert drift["rerouted_after"] == 1
    assert drift["drift_after_free"] == drift["drift_after_free_rerouted"]
    assert drift["drift_after_free"] > 1.5 * drift["drift_after_kept"] > 0
    assert drift["drift_after_free_tail"] > drift["drift_after_free"]


def test_a_teacher_s_tokens_have_no_drift(task):
    """They were not sampled: logp 0 against the policy's would be counted as the widest of all."""
    recipe = Recipe(sampling=Sampling(group_size=4, teacher_traces=2))
    trainer = _trainer(task, recipe)
    batch = trainer.collector.collect(0, 0.0).batch
    assert (batch.routing.view(8, 4, *batch.routing.shape[1:])[:, 2:] == FREE).all()
    drift = routing_drift(trainer.model, batch, trainer.scorer, "before")
    assert drift["drift_before_free"] < 1e-5


def test_a_rounded_sampler_is_another_policy(task):
    """bfloat16: parameters rounded, the trainer's untouched, frequencies of positions exact."""
    model = _model()
    before = [p.clone() for p in model.parameters()]
    rounded = in_precision(model, torch.bfloat16)
    assert all(map(torch.equal, before, model.parameters()))
    for exact, other in zip(model.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(exact.bfloat16(), other)
    frequencies = [dict(m.named_buffers())["model.rotary_emb.inv_freq"] for m in (model, rounded)]
    assert torch.equal(*frequencies)
    assert in_precision(model, torch.float32) is model

    row = _trainer(task, sampler_dtype=torch.bfloat16).step()
    assert 1e-4 < row["drift_before_free"] < 0.2
    assert math.isfinite(row["drift_after_free_tail"])


def test_both_trainings_are_compared(tmp_path):
    options = {
        "steps": 2,
        "prompts": 4,
        "group_size": 4,
        "minibatches": 2,
        "learning_rate": 1e-3,
        "experts": 2,
        "sampler_dtype": "bfloat16",
        "problems": 200,
        "digits": 1,
        "warmup_accuracy": 0.01,
        "warmup_steps": 2,
    }

    def compare():
        return compare_routing("deepseek_v32", out=tmp_path, console=None, fresh=False, **options)

    drifts, plot, interrupted = compare()
    assert not interrupted
    assert plot.read_bytes().startswith(b"\x89PNG")
    expected = [("free", "before"), ("free", "after"), ("kept", "before"), ("kept", "after")]
    assert [(drift.trained, drift.moment) for drift in drifts] == expected
    assert all(drift.kept > 0 and drift.free_tail >= drift.free > 0 for drift in drifts)
    lines = (tmp_path / "drift.csv").read_text().splitlines()
    assert [tuple(line.split(",")[:2]) for line in lines[1:]] == expected
    # The same first batch from the same warm-up; training has parted by the second.
    files = [tmp_path / name / "deepseek_v32" / "steps.csv" for name in ("free", "kept")]
    first, second = ([file.read_text().splitlines()[at] for file in files] for at in (1, 2))
    assert first[0].split(",")[:4] == first[1].split(",")[:4]
    assert second[0] != second[1]
    # Both are finished: a second call only reads them.
    assert compare()[0] == drifts
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(drift_table(drifts))
    shown = console.export_text()
    assert all(f"{drift.free:.4f}" in shown and f"{drift.kept:.4f}" in shown for drift in drifts)
