"""Every recipe that TRL can carry, step by step against its hooks called by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from entropy_ext import TokenStats, recipes, reference
from entropy_ext.integrations.trl import GRPOTrainer, refusals
from entropy_ext.recipes import RECIPES, Recipe, Targets
from entropy_ext.rl import Rollout
from tests.integrations.trl_runs import (
    batch_of,
    first_word,
    first_words,
    scripted,
    tiny_model,
    tokenizer,
    train,
    trainer,
)

pytestmark = [
    # TRL 1.16 calls transformers 5.23 by names that it renamed.
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*experimental:UserWarning"),
]

CARRIED = [name for name in RECIPES if not refusals(recipes.get(name))]
FIELDS = (
    *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "response"),
    "sampling_per_token_logps",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trl")
    tiny_model().save_pretrained(path / "model")
    return path


def _trainer(folder: Path, name: str, **options: Any) -> Any:
    """Two windows of two micro-batches of four responses: four groups of four in all."""
    ours = {"recipe": name, "rollout_func": scripted, "answers": first_words}
    return trainer(
        GRPOTrainer,
        folder,
        model=str(folder / "model"),
        reward=first_word,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        ours={**ours, **options.pop("ours", {})},
        **options,
    )


def _stats(model: nn.Module, rows: dict[str, Tensor], recipe: Recipe) -> TokenStats:
    """Of the completions, by plain PyTorch in float64; differentiable."""
    ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
    mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
    width = rows["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
    stats = reference.token_stats(
        logits.double(),
        rows["completion_ids"],
        temperature=0.8,
        mask=rows["completion_mask"].bool(),
        extras=recipe.extras,
    )
    return TokenStats._make(x if x is None else x.float() for x in stats)


def _by_hand(name: str, rows: dict[str, Tensor], stats: TokenStats, ref: TokenStats) -> Any:
    """The recipe, the rollout it is shown and its targets, from the text of the responses."""
    recipe = recipes.get(name, sampling=recipes.Sampling(group_size=4, temperature=0.8))
    texts = tokenizer().batch_decode(rows["completion_ids"], skip_special_tokens=True)
    rewards = torch.tensor(first_word(texts))
    mask = rows["completion_mask"].bool()
    fields = {
        "correct": rewards > 0,
        "answers": first_words(texts),
        "ref_logp": ref.logp,
        "rollout_logp": rows["sampling_per_token_logps"],
    }
    rollout = Rollout(
        tokens=rows["completion_ids"],
        mask=mask,
        rewards=rewards,
        prompt=rows["response"] // 4,
        old_logp=stats.logp,
        old_entropy=stats.entropy,
        max_length=6,
        step=0,
        progress=0.0,
        **{name: value for name, value in fields.items() if name in recipe.needs},
    )
    rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
    kept = recipe.keep(rollout)
    advantages = torch.zeros(mask.shape)
    advantages[kept] = recipe.targets(rollout.rows(kept)).advantages
    return recipe, rollout.replace(mask=mask & kept[:, None]), Targets(advantages)


@pytest.mark.parametrize("name", CARRIED)
def test_two_optimizer_steps_are_the_recipes(name: str, folder: Path) -> None:
    """A field of another response, a plan per micro-batch, a wrong normaliser or statistic shows.

    The second step comes after the weights moved, and its gradient is the sum over two
    micro-batches; by hand the mini-batch is one.
    """
    ours = _trainer(folder, name)
    torch.manual_seed(3)
    batch_of(ours)
    parts = ours._buffered_inputs
    rows = {key: torch.cat([part[key] for part in parts]) for key in FIELDS}
    model = ours.model
    with torch.no_grad():
        first = _stats(model, rows, recipes.get(name))
    recipe, rollout, targets = _by_hand(name, rows, first, first)
    generator = torch.Generator().manual_seed(2)
    for window in range(2):
        here = slice(8 * window, 8 * window + 8)
        model.zero_grad()
        for step in (2 * window, 2 * window + 1):
            ours._step = step
            ours._compute_loss(model, parts[step]).backward()
        ours_grads = [p.grad.clone() for p in model.parameters()]

        model.zero_grad()
        stats = _stats(model, {key: value[here] for key, value in rows.items()}, recipe)
        before = TokenStats._make(x if x is None else x.detach() for x in stats)
        known = {"micro": None, "minibatch": before, "rollout": _rows(first, here)}
        shown, aim = rollout.rows(here), targets.rows(here)
        plan = recipe.prepare(known[recipe.statistics], shown, aim)
        plan.aggregate(recipe.token_loss(stats, shown, aim, plan).loss).backward()
        grads = [p.grad.clone() for p in model.parameters()]
        torch.testing.assert_close(ours_grads, grads, atol=2e-5, rtol=1e-4)
        assert max(grad.abs().max() for grad in grads) > 1e-3
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    assert str(ours.learner.recipe.state_dict()) == str(recipe.state_dict())


def _rows(stats: TokenStats, rows: slice) -> TokenStats:
    return TokenStats._make(x if x is None else x[rows] for x in stats)


def test_what_a_recipe_does_is_in_trls_log(folder: Path) -> None:
    """Without it nobody sees what a controller does."""
    logs = train(_trainer(folder, "clip_cov"))
    assert len(logs) == 2
    for row in logs:
        assert 0 < row["recipe/cov_clipped"] < 1
        assert row["entropy"] > 1
        assert "clip_ratio/low_mean" in row
    assert 0 < logs[0]["recipe/kept"] <= 1
    logs = train(_trainer(folder, "skywork_or1", max_steps=3))
    assert [row["recipe/entropy_coef"] for row in logs] == [0.0, 0.0, 0.0]
    recipe = recipes.get("skywork_or1", target=10.0)
    logs = train(_trainer(folder, recipe, max_steps=3))
    assert [row["recipe/entropy_coef"] for row in logs] == pytest.approx([0, 1e-4, 2e-4])


def test_validation_leaves_the_controllers_alone(folder: Path) -> None:
    """An evaluation that moved them would change training by how often it is looked at."""
    ours = _trainer(folder, "entropic", per_device_eval_batch_size=8)
    batch_of(ours)
    before = copy.deepcopy(ours.learner.recipe.state_dict())
    metrics = ours.evaluate(ours.train_dataset)
    assert metrics["eval_loss"] == pytest.approx(0, abs=1.0)
    assert str(ours.learner.recipe.state_dict()) == str(before)


def test_validation_in_batches_larger_than_a_generation(folder: Path) -> None:
    """TRL's table keeps a generation of training: more is not there to be replaced."""
    ours = _trainer(folder, "grpo", per_device_eval_batch_size=32)
    assert ours.args.generation_batch_size == 16
    ours.evaluate(ours.train_dataset)
    collected = ours.learner._collected[False].advantages
    assert list(ours._logs["advantages"]) == collected[-ours.args.generation_batch_size :]


def test_groups_without_a_signal_are_dropped_and_not_replaced(folder: Path) -> None:
    """Were they counted, the mean over tokens would shrink; were they kept, so would the step."""

    def only_first_group(prompts: list[str], **_: Any) -> list[float]:
        varied = prompts[0]
        return [float(prompt == varied and i % 2) for i, prompt in enumerate(prompts)]

    ours = trainer(
        GRPOTrainer,
        folder,
        reward=only_first_group,
        ours={"recipe": "dapo", "rollout_func": scripted},
    )
    batch = batch_of(ours)
    loss = ours._compute_loss(ours.model, batch)
    assert ours._metrics["train"]["recipe/kept"] == [0.5]
    kept = batch["response"] < 4
    plan = ours.learner._plan
    assert torch.equal(plan.mask.any(-1), kept)
    assert plan.normalizer == batch["completion_mask"][kept].sum()
    # On policy each token's loss is −A.
    advantages = ours.learner._collected[True].targets.advantages[batch["response"]]
    expected = -(advantages * plan.mask).sum() / plan.normalizer
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert set(ours._logs["advantages"]) >= {0.0}


def test_a_response_without_a_reward_leaves_its_group(folder: Path) -> None:
    """Counted as 0, as a sum over no rewards is, it would shift the advantages of the others."""

    def silent_once(prompts: list[str], **_: Any) -> list[float | None]:
        return [None, 1.0, 0.0, 0.0] * (len(prompts) // 4)

    ours = trainer(
        GRPOTrainer, folder, reward=silent_once, ours={"recipe": "grpo", "rollout_func": scripted}
    )
    batch = batch_of(ours)
    ours._compute_loss(ours.model, batch)
    place = batch["response"] % 4
    assert torch.equal(ours.learner._plan.mask.any(-1), place != 0)
    advantages = ours.learner._collected[True].targets.advantages[batch["response"]][:, 0]
    thirds = torch.tensor([0.0, 2.0, -1.0, -1.0]) / 3**0.5
    torch.testing.assert_close(advantages, thirds[place], atol=1e-4, rtol=0)
