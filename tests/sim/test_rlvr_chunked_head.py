"""Training that never holds the logits of all tokens is the training that does."""

from __future__ import annotations

import copy
import signal

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from entropy_ext.recipes import RECIPES
from sim.__main__ import app
from sim.rlvr.interrupt import deferred_interrupt
from sim.rlvr.model import build_model
from sim.rlvr.options import configured
from sim.rlvr.run import run
from sim.rlvr.task import ChainSum
from sim.rlvr.train import train
from sim.rlvr.trainer import Trainer
from sim.rlvr.warmup import warm_up
from tests.bits import same_bits

MAX_LENGTH, VOCAB = 9, 40
CHUNK = 4 * MAX_LENGTH + 1
# Plain; statistics of the whole mini-batch; a loss of whole sequences; extras; a value head;
# a teacher's traces; stored responses.
NAMES = ["dapo", "clip_cov", "gspo", "entropy_neutral", "vapo", "luffy", "bcpg_nsa"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


@pytest.fixture(scope="module")
def task():
    return ChainSum(size=300, seed=0, terms=3, digits=1)


@pytest.fixture(scope="module")
def warm(task):
    """A model in float64 that is right now and then: without rewards nothing moves."""
    held_out = ChainSum(size=300, seed=0, terms=3, digits=1, held_out=True)
    model = build_model(vocab_size=VOCAB, seed=1, hidden_size=32, layers=1)
    reached = warm_up(
        *(model, task, held_out),
        target=0.25,
        max_steps=400,
        max_length=MAX_LENGTH,
        seed=0,
        batch=64,
        learning_rate=1e-2,
    )
    assert 0.1 < reached < 0.9
    return model.double()


def _trainer(task, warm, name, options=None, **head):
    recipe = configured(name, {"group_size": 4, "minibatches": 2, **(options or {})})
    recipe.value_pretraining = min(recipe.value_pretraining, 1)
    return Trainer(
        *(copy.deepcopy(warm), task, recipe),
        steps=6,
        seed=0,
        prompts=4,
        learning_rate=1e-3,
        max_length=MAX_LENGTH,
        micro_batch=7,
        stored_prompts=12,
        sampler_dtype=torch.float64,
        **head,
    )


def _trained(trainer, steps=3):
    while trainer.preparations > 0:
        trainer.prepare()
    return [trainer.step() for _ in range(steps)]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_training(task, warm, name):
    """In float64, where rounding cannot grow into another sample: every measure of every step and
    all parameters. Catches a plan cut at the wrong sequences, a normaliser or a metric counted per
    chunk, statistics of a chunk where those of the mini-batch are due, a temperature forgotten."""
    assert name in RECIPES
    stored, chunked = (
        _trainer(task, warm, name),
        _trainer(task, warm, name, chunked_head=True, chunk_tokens=CHUNK),
    )
    expected, rows = _trained(stored), _trained(chunked)
    for row, truth in zip(rows, expected, strict=True):
        assert row == pytest.approx(truth, rel=1e-7, abs=1e-9)
    assert sum(row["updates"] for row in rows) > 0
    moved = 0.0
    for ours, theirs, start in zip(
        *(x.model.parameters() for x in (chunked, stored)), warm.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
        moved = max(moved, (theirs - start).abs().max().item())
    assert moved > 1e-3


class _Watch(TorchDispatchMode):
    """The most elements of a tensor whose last dimension is the vocabulary, weights aside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim > 0 and result.shape[-1] == VOCAB:
            self.most = max(self.most, result.numel())
        return result


def _most_logits(trainer):
    """In one update of a collected batch, whose statistics are taken too."""
    batch, _ = trainer.collector.collect(0, 0.0)
    with _Watch(trainer.model) as watch:
        trainer._learn(batch)
    return watch.most


def test_no_more_logits_than_a_chunk_exist(task, warm):
    """Catches a pass, forward or backward, for statistics or for the loss, that stores them all."""
    stored = _trainer(task, warm, "clip_cov")
    chunked = _trainer(task, warm, "clip_cov", chunked_head=True, chunk_tokens=CHUNK)
    assert _most_logits(stored) > CHUNK * VOCAB
    assert 0 < _most_logits(chunked) <= CHUNK * VOCAB


@pytest.mark.parametrize("name", ["clip_cov", "vapo"])
def test_interrupted_and_resumed_equals_straight(tmp_path, task, warm, name):
    """The same bits after Ctrl-C, whatever of the chunked head a checkpoint does not hold."""
    held_out = ChainSum(size=300, seed=0, terms=3, digits=1, held_out=True)

    def go(directory, stop_at=None):
        trainer = _trainer(task, warm, name, chunked_head=True, chunk_tokens=CHUNK)

        def step_done(row):
            if row["step"] == stop_at:
                signal.raise_signal(signal.SIGINT)

        with deferred_interrupt() as interrupt:
            train(
                *(trainer, held_out, directory),
                settings={"chunk_tokens": CHUNK},
                seed=0,
                evaluate_every=9,
                checkpoint_every=9,
                interrupt=interrupt,
                on_preparation=lambda left, row: None,
                on_step=step_done,
            )
        return trainer

    straight = go(tmp_path / "straight")
    assert go(tmp_path / "broken", stop_at=3).done == 3
    resumed = go(tmp_path / "broken")
    assert resumed.done == straight.done == 6
    assert same_bits(resumed.state_dict(), straight.state_dict())


def test_what_cannot_be_had_is_refused_before_anything_is_done(tmp_path, task, warm):
    """Catches a recipe trained on statistics of all tokens where it asks for those of the kept."""
    message = "chunked_head: recipe deepseek_v32 needs support"
    with pytest.raises(ValueError, match=message):
        run(
            ["deepseek_v32"],
            out=tmp_path,
            problems=200,
            options={"top_p": 0.9},
            chunked_head=True,
        )
    with pytest.raises(ValueError, match=message):
        _trainer(task, warm, "deepseek_v32", {"top_p": 0.9}, chunked_head=True)
    with pytest.raises(ValueError, match="chunk_tokens: expected at least max_length, 9, got 8"):
        _trainer(task, warm, "grpo", chunked_head=True, chunk_tokens=8)
    with pytest.raises(ValueError, match="chunk_tokens: expected none without chunked_head"):
        _trainer(task, warm, "grpo", chunk_tokens=100)
    assert not list(tmp_path.iterdir())


def test_the_command_line_passes_it_on(tmp_path):
    """Catches an option that is accepted and dropped."""
    recipe = ["--recipe", "deepseek_v32", "--set", "top_p=0.9"]
    arguments = [*recipe, "--chunked-head", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["rlvr", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "recipe deepseek_v32 needs support" in result.output
    arguments = ["--chunked-head", "--chunk-tokens", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["rlvr", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "chunk_tokens: expected at least max_length" in result.output
