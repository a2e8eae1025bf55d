"""Every recipe trains a tiny model, and goes on to the bit after an interruption."""

from __future__ import annotations

import copy
import math
import signal
from dataclasses import replace

import pytest
import torch

from entropy_ext.recipes import RECIPES
from sim.rlvr.fields import SUPPLIED
from sim.rlvr.interrupt import deferred_interrupt
from sim.rlvr.model import build_model
from sim.rlvr.options import configured
from sim.rlvr.task import ChainSum
from sim.rlvr.train import train
from sim.rlvr.trainer import Trainer
from sim.rlvr.warmup import warm_up
from tests.bits import same_bits

STEPS = 20
# The recipes that `make test` trains with, and options under which they need what no other does:
# between them every optional field and every part of the harness.
REPRESENTATIVE = {
    "vapo": dict,
    "seed_grpo": dict,
    "bcpg_nsa": dict,
    "prorl": lambda: {"reset_every": 6},
    "luffy": lambda: {"teacher_probabilities": True},
    "steer": lambda: {"form": "exact"},
    "entropic": dict,
    "sent": dict,
    "deepseek_v32": lambda: {"top_p": 0.9, "domain_kl": {1: 0.5}},
}
NAMES = [
    name if name in REPRESENTATIVE else pytest.param(name, marks=pytest.mark.every_recipe)
    for name in RECIPES
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


@pytest.fixture(scope="module")
def tasks():
    return [ChainSum(size=300, seed=0, terms=3, digits=1, held_out=held) for held in (False, True)]


@pytest.fixture(scope="module")
def warm(tasks):
    """A model that is right now and then: without rewards nothing moves."""
    model = build_model(vocab_size=16, seed=1, hidden_size=32, layers=1)
    reached = warm_up(
        model,
        *tasks,
        target=0.25,
        max_steps=400,
        max_length=9,
        seed=0,
        batch=64,
        learning_rate=1e-2,
    )
    assert 0.1 < reached < 0.9
    return model


def _run(directory, tasks, warm, name, *, steps=STEPS, stop_at_step=None, stop_before=None):
    """A run of the recipe, begun or gone on with; Ctrl-C at a step or so many preparations before
    the first. The trainer, and the rows without what the clock said."""
    task, held_out = tasks
    options = REPRESENTATIVE.get(name, dict)()
    recipe = configured(name, {"group_size": 4, "minibatches": 2, **options})
    recipe.value_pretraining = min(recipe.value_pretraining, 3)
    recipe.sampling = replace(recipe.sampling, refill=min(recipe.sampling.refill, 1))
    trainer = Trainer(
        copy.deepcopy(warm),
        task,
        recipe,
        steps=steps,
        seed=0,
        prompts=4,
        learning_rate=1e-3,
        max_length=9,
        micro_batch=9,
        survey_prompts=24,
        stored_prompts=12,
    )

    def press_ctrl_c(now, when):
        if now == when:
            signal.raise_signal(signal.SIGINT)

    with deferred_interrupt() as interrupt:
        records = train(
            trainer,
            held_out,
            directory,
            settings={},
            seed=0,
            evaluate_every=10,
            checkpoint_every=6,
            interrupt=interrupt,
            on_preparation=lambda left, row: press_ctrl_c(left, stop_before),
            on_step=lambda row: press_ctrl_c(row["step"], stop_at_step),
        )
    return trainer, [{k: v for k, v in row.items() if k != "seconds"} for row in records.rows]


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_and_the_same_after_an_interruption(tmp_path, tasks, warm, name):
    trainer, rows = _run(tmp_path / "straight", tasks, warm, name)
    assert len(_run(tmp_path / "broken", tasks, warm, name, stop_at_step=7)[1]) == 7
    resumed, resumed_rows = _run(tmp_path / "broken", tasks, warm, name)
    assert resumed_rows == rows
    assert same_bits(resumed.state_dict(), trainer.state_dict())

    assert len(rows) == STEPS
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert sum(row["updates"] for row in rows) > STEPS / 2
    for before, after in zip(warm.parameters(), trainer.model.parameters(), strict=True):
        assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["vapo", "sent"])
def test_the_same_after_an_interruption_before_the_first_step(tmp_path, tasks, warm, name):
    """In the survey, or in value pre-training, of which the CSV file must lose no step either."""
    trainer, rows = _run(tmp_path / "straight", tasks, warm, name, steps=2)
    assert _run(tmp_path / "broken", tasks, warm, name, steps=2, stop_before=1)[1] == []
    resumed, resumed_rows = _run(tmp_path / "broken", tasks, warm, name, steps=2)
    assert resumed_rows == rows
    assert len(rows) == 2
    assert same_bits(resumed.state_dict(), trainer.state_dict())
    if name == "vapo":
        files = [tmp_path / run / "value_pretraining.csv" for run in ("straight", "broken")]
        lines = files[0].read_text().splitlines()
        assert lines == files[1].read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3"]


def test_the_representatives_cover_every_field():
    """Catches a field that a recipe has come to need and that `make test` never trains with."""
    needed = [configured(name, {}).needs for name in RECIPES]
    trained = [configured(name, options()).needs for name, options in REPRESENTATIVE.items()]
    assert frozenset().union(*needed) <= frozenset().union(*trained)
    assert SUPPLIED - frozenset().union(*trained) == {"truncated"}
