from __future__ import annotations

import signal

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from entropy_ext import recipes
from entropy_ext.recipes import Recipe, Sampling, StepActions
from sim.__main__ import app
from sim.rlvr.model import build_model
from sim.rlvr.run import Result, run
from sim.rlvr.task import ChainSum
from sim.rlvr.trainer import Trainer
from tests.bits import same_bits

TINY = {
    "prompts": 4,
    "group_size": 4,
    "minibatches": 2,
    "problems": 200,
    "digits": 1,
    "warmup_accuracy": 0.03,
    "warmup_steps": 50,
    "evaluate_every": 3,
    "checkpoint_every": 4,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A directory whose warm-up is done; runs start from copies of its checkpoint."""
    out = tmp_path_factory.mktemp("warm")
    run(["grpo"], out=out, steps=1, **TINY)
    return out / "warmup.pt"


def _directory(tmp_path, warm, name):
    out = tmp_path / name
    out.mkdir()
    (out / "warmup.pt").write_bytes(warm.read_bytes())
    return out


def _weights(out, name):
    return torch.load(out / name / "checkpoint.pt", weights_only=True)["state"]


def _timeless(records):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in records.rows]


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_interrupted_and_resumed_equals_straight(tmp_path, warm, name):
    """Six steps, and three, Ctrl-C, and three: the same bits in model, optimizer, chance, CSV."""
    straight = _directory(tmp_path, warm, "straight")
    whole = run([name], out=straight, steps=6, **TINY)
    assert not whole.interrupted

    def press_ctrl_c(recipe, row):
        if row["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    broken = _directory(tmp_path, warm, "broken")
    first = run([name], out=broken, steps=6, on_step=press_ctrl_c, **TINY)
    assert first.interrupted
    assert len(first.records[name].rows) == 3
    second = run([name], out=broken, steps=6, **TINY)
    assert not second.interrupted
    assert same_bits(_weights(straight, name), _weights(broken, name))
    assert _timeless(second.records[name]) == _timeless(whole.records[name])
    assert len(whole.records[name].rows) == 6
    # The comparison would hold for a run that never moved, too.
    start = torch.load(warm, weights_only=True)["state"]["model"]
    assert not same_bits(start, _weights(straight, name)["model"])


def test_rows_after_the_checkpoint_are_done_again(tmp_path, warm):
    """A kill between two checkpoints leaves CSV rows of steps that will be repeated."""
    out = _directory(tmp_path, warm, "run")

    def power_cut(recipe, row):
        if row["step"] == 6:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(["grpo"], out=out, steps=8, on_step=power_cut, **TINY)
    assert _weights(out, "grpo")["done"] == 4
    resumed = run(["grpo"], out=out, steps=8, **TINY)
    assert [row["step"] for row in resumed.records["grpo"].rows] == list(range(1, 9))
    lines = (out / "grpo" / "steps.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", *map(str, range(1, 9))]


def test_recipes_side_by_side_share_the_start(tmp_path, warm):
    out = _directory(tmp_path, warm, "both")
    console = Console(record=True, width=120, force_terminal=True)
    result = run(["grpo", "dapo"], out=out, steps=3, console=console, **TINY)
    rows = {name: records.rows for name, records in result.records.items()}
    # The first batch of problems and responses is the same; the updates are not.
    assert rows["grpo"][0]["entropy"] == pytest.approx(rows["dapo"][0]["entropy"], rel=0.2)
    assert rows["grpo"][0]["kl_reference"] == rows["dapo"][0]["kl_reference"] == 0
    assert not same_bits(_weights(out, "grpo")["model"], _weights(out, "dapo")["model"])
    assert result.plot.read_bytes().startswith(b"\x89PNG")
    text = console.export_text()
    for word in ("grpo", "dapo", "reward", "entropy", "KL", "clipped"):
        assert word in text


def test_another_run_s_directory_is_refused(tmp_path, warm):
    out = _directory(tmp_path, warm, "run")
    run(["grpo"], out=out, steps=1, **TINY)
    changed = TINY | {"group_size": 2}
    with pytest.raises(ValueError, match="group_size was 4, is 2"):
        run(["grpo"], out=out, steps=1, **changed)
    assert len(run(["grpo"], out=out, steps=2, **TINY).records["grpo"].rows) == 2


def test_three_numbers_have_one_digit_unless_told_otherwise(tmp_path):
    """With two, the warm-up of a recipe that needs steps takes far longer than it is given."""
    few = {"steps": 1, "prompts": 2, "stored_prompts": 2, "problems": 100, "warmup_steps": 1}
    for recipe, digits in (("bcpg_nsa", 1), ("grpo", 2)):
        run([recipe], out=tmp_path / recipe, options={"group_size": 2}, **few)
        saved = torch.load(tmp_path / recipe / "warmup.pt", weights_only=True)
        assert saved["settings"]["digits"] == digits


def test_a_warm_up_that_falls_short_is_told(tmp_path, monkeypatch):
    def short(names, *, out, **options):
        return Result({}, None, 0.284, interrupted=False, seconds=0.0)

    monkeypatch.setattr("sim.rlvr.command.run", short)
    for target, told in (("0.4", True), ("0.2", False)):
        arguments = ["rlvr", "--out", str(tmp_path), "--warmup-accuracy", target]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        message = "ended at 0.28, short of 0.40: its 600 steps were too few (--warmup-steps)"
        assert (message in result.output) == told


def test_each_recipe_has_its_own_sizes(tmp_path, warm):
    """One optimizer step for a recipe that is on policy, four for its neighbour; and the same for
    both if asked for. A run may not go on with other sizes than it began with."""
    own = {name: value for name, value in TINY.items() if name not in ("group_size", "minibatches")}
    out = _directory(tmp_path, warm, "own")
    records = run(["opo", "grpo"], out=out, steps=1, **own).records
    assert [records[name].rows[0]["updates"] for name in ("opo", "grpo")] == [1, 4]
    assert [records[name].rows[0]["sampled"] for name in ("opo", "grpo")] == [64, 64]
    out = _directory(tmp_path, warm, "set")
    records = run(["opo", "grpo"], out=out, steps=1, options={"minibatches": 2}, **own).records
    assert [records[name].rows[0]["updates"] for name in ("opo", "grpo")] == [2, 2]
    with pytest.raises(ValueError, match="minibatches was 2, is 1"):
        run(["opo"], out=out, steps=2, **own)


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"recipe: expected one of grpo, dapo, .*got 'ppo'"):
        run(["ppo"], out=tmp_path)
    with pytest.raises(ValueError, match="recipes: expected distinct names, got grpo, grpo"):
        run(["grpo", "grpo"], out=tmp_path)
    with pytest.raises(ValueError, match=r"recipe grpo: .*'clip_hihg'"):
        run(["grpo"], out=tmp_path, options={"clip_hihg": 0.3})
    with pytest.raises(ValueError, match="keep_routing: expected experts > 1, got 1"):
        run(["grpo"], out=tmp_path, keep_routing=True)
    with pytest.raises(ValueError, match="sampler_dtype: expected one of float32, bfloat16"):
        run(["grpo"], out=tmp_path, sampler_dtype="int8")
    with pytest.raises(ValueError, match="vocab_size: expected at least 15, got 7"):
        run(["grpo"], out=tmp_path, vocab_size=7, problems=200)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def task():
    return ChainSum(size=200, seed=0, digits=1)


def _trainer(task, recipe, **options):
    model = build_model(vocab_size=16, seed=2, hidden_size=32, layers=2)
    arguments = {
        "steps": 4,
        "seed": 0,
        "prompts": 6,
        "learning_rate": 1e-3,
        "max_length": 5,
        "micro_batch": 100,
    }
    return Trainer(model, task, recipe, **(arguments | options))


class Noisy(Recipe):
    """Rewards by the parity of the answer, so that an untrained model has something to learn."""

    name = "noisy"

    def shape_rewards(self, rollout):
        return (rollout.tokens.sum(-1) % 2).to(rollout.rewards.dtype)


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
def test_micro_batches_make_the_same_update(task, aggregation):
    """Three sequences at a time or all at once: the same model up to float32 rounding."""
    models = []
    for micro_batch in (3, 100):
        recipe = Noisy(aggregation=aggregation, sampling=Sampling(group_size=4), minibatches=2)
        trainer = _trainer(task, recipe, micro_batch=micro_batch)
        before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
        trainer.step()
        after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        models.append(after - before)
    assert models[0].abs().max() > 1e-3
    torch.testing.assert_close(models[0], models[1], rtol=0, atol=1e-6)


def test_dropped_groups_are_made_up_for(task):
    """Keeps every third group: refill fills the batch up and drops the surplus."""

    class Thirds(Noisy):
        name = "thirds"

        def keep(self, rollout):
            return rollout.prompt % 3 == 0

    for refill, kept in ((0, None), (30, 6 * 4)):
        recipe = Thirds(sampling=Sampling(group_size=4, refill=refill))
        metrics = _trainer(task, recipe).step()
        assert metrics["sampled"] % 24 == 0
        if kept is None:
            assert metrics["sampled"] == 24
            assert metrics["kept"] < 24
        else:
            assert metrics["sampled"] > 24
            assert metrics["kept"] == kept


def test_nothing_kept_makes_no_update(task):
    class Nothing(Recipe):
        name = "nothing"

        def keep(self, rollout):
            return torch.zeros_like(rollout.prompt, dtype=torch.bool)

    trainer = _trainer(task, Nothing(sampling=Sampling(group_size=2)))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    metrics = trainer.step()
    assert metrics["kept"] == metrics["updates"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_statistics_given_to_prepare(task):
    """ "rollout" is the policy that sampled, "minibatch" the one being trained, "micro" nothing."""
    seen = []

    class Watching(Noisy):
        name = "watching"

        def prepare(self, stats, rollout, targets, *, group=None):
            seen.append((stats, rollout.old_logp, rollout.mask))
            return super().prepare(stats, rollout, targets, group=group)

    for statistics in ("micro", "rollout", "minibatch"):
        Watching.statistics = statistics
        seen.clear()
        _trainer(task, Watching(sampling=Sampling(group_size=4), minibatches=2)).step()
        (first, old_first, _), (second, old_second, mask) = seen
        if statistics == "micro":
            assert first is second is None
            continue
        torch.testing.assert_close(first.logp, old_first, rtol=0, atol=1e-5)
        assert not first.logp.requires_grad
        moved = (second.logp - old_second)[mask].abs().max()
        assert moved == 0 if statistics == "rollout" else moved > 1e-3


def test_requests_of_after_step_are_carried_out(task):
    class Resetting(Noisy):
        name = "resetting"

        def after_step(self, metrics):
            return StepActions(reset_reference=True, reset_optimizer=True)

    trainer = _trainer(task, Resetting(sampling=Sampling(group_size=4)))
    start = [p.detach().clone() for p in trainer.reference.parameters()]
    trainer.step()
    pairs = zip(trainer.reference.parameters(), trainer.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(map(torch.equal, start, trainer.reference.parameters()))
    assert not trainer.optimizer.state


@pytest.mark.parametrize("reset_optimizer", [True, False])
def test_prorl_s_reset(task, reset_optimizer):
    """The divergence from the reference is 0 after it; Adam's moments are gone only if asked."""
    recipe = recipes.get(
        "prorl", reset_every=2, reset_optimizer=reset_optimizer, sampling=Sampling(group_size=4)
    )
    # An untrained model has no right answers to tell apart.
    recipe.keep = lambda rollout: torch.ones_like(rollout.prompt, dtype=torch.bool)
    recipe.shape_rewards = lambda rollout: (rollout.tokens.sum(-1) % 2).to(rollout.rewards.dtype)
    trainer = _trainer(task, recipe)
    rows = [trainer.step() for _ in range(2)]
    assert rows[0]["kl_reference"] == 0 < rows[1]["kl_reference"]
    moments = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    assert len(moments) == (0 if reset_optimizer else len(list(trainer.model.parameters())))
    assert all(moment.abs().max() > 0 for moment in moments)
    assert trainer.step()["kl_reference"] == 0


def test_unsupplied_fields_are_refused(task):
    class Lunar(Recipe):
        name = "lunar"
        needs = frozenset({"moon_phase", "correct"})

    with pytest.raises(ValueError, match="recipe lunar needs moon_phase: not supplied here"):
        _trainer(task, Lunar())
