"""A run that was interrupted goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from entropy_ext import recipes
from entropy_ext.integrations.trl import GRPOTrainer
from tests.integrations.trl_runs import PROMPTS, first_word, scripted, tiny_model, train, trainer

pytestmark = [
    # TRL 1.16 calls transformers 5.23 by names that it renamed.
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*experimental:UserWarning"),
]


def _recipe(name: str) -> Any:
    """With controllers that move in every one of a few steps."""
    options: dict[str, dict[str, Any]] = {
        "entropic": {"target": 3.0, "confident": 0.02},
        "skywork_or1": {"target": 10.0},
        "prorl": {"kl_coef": 0.1, "reset_every": 2},
    }
    return recipes.get(name, **options.get(name, {}))


def _trainer(folder: Path, name: str, steps: int) -> Any:
    # Four generations of two micro-batches to an epoch: TRL's order of prompts does not survive
    # an interruption between two epochs.
    return trainer(
        GRPOTrainer,
        folder / "run",
        model=str(folder / "model"),
        reward=first_word,
        max_steps=steps,
        save_strategy="steps",
        save_steps=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        ours={"recipe": _recipe(name), "rollout_func": scripted},
    )


@pytest.mark.parametrize("name", ["clip_cov", "entropic", "skywork_or1", "prorl"])
def test_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    """A controller, a seed or a moved reference that began anew would train other weights."""
    tiny_model().save_pretrained(tmp_path / "model")
    whole = _trainer(tmp_path, name, 3)
    logs = train(whole)
    resumed = _trainer(tmp_path, name, 3)
    fresh = str(resumed.learner.recipe.state_dict())
    again = train(resumed, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))

    assert str(whole.learner.state_dict()) == str(resumed.learner.state_dict())
    assert str(whole.learner.recipe.state_dict()) != fresh
    assert whole.learner.reference_moved == (name == "prorl")
    torch.testing.assert_close(
        list(resumed.model.parameters()), list(whole.model.parameters()), atol=0, rtol=0
    )
    if whole.ref_model is not None:
        references = [list(t.ref_model.parameters()) for t in (resumed, whole)]
        torch.testing.assert_close(*references, atol=0, rtol=0)
    for before, after in zip(logs[2:], again[2:], strict=True):
        assert {k: v for k, v in before.items() if "time" not in k} == {
            k: v for k, v in after.items() if "time" not in k
        }


def test_a_reset_takes_the_policy_as_reference_and_forgets_the_moments(tmp_path: Path) -> None:
    """Requested and not carried out, ProRL would be DAPO with a penalty."""
    tiny_model().save_pretrained(tmp_path / "model")
    ours = _trainer(tmp_path, "prorl", 2)
    train(ours)
    torch.testing.assert_close(
        list(ours.ref_model.parameters()), list(ours.model.parameters()), atol=0, rtol=0
    )
    assert not ours.optimizer.state
    start = tiny_model()
    assert any(
        not torch.equal(a, b)
        for a, b in zip(ours.ref_model.parameters(), start.parameters(), strict=True)
    )


def test_a_score_on_held_out_prompts_reaches_the_recipe(tmp_path: Path) -> None:
    """ProRL resets where validation stalls: unseen, it never would."""
    tiny_model().save_pretrained(tmp_path / "model")
    recipe = recipes.get("prorl", reset_patience=1)
    ours = trainer(
        GRPOTrainer,
        tmp_path,
        model=str(tmp_path / "model"),
        reward=lambda completions, **_: [float(i % 2) for i, _ in enumerate(completions)],
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=8,
        ours={
            "recipe": recipe,
            "rollout_func": scripted,
            "eval_dataset": Dataset.from_dict({"prompt": PROMPTS}),
        },
    )
    train(ours)
    # The score of 0.5 after the first step is the best so far, after the second it stalls.
    assert ours.learner.reference_moved
    assert ours.learner.state_dict()["held_out"] == 0.5


def test_another_recipes_checkpoint_is_refused(tmp_path: Path) -> None:
    """Its state would be read as something else, or a run begun anew half way."""
    tiny_model().save_pretrained(tmp_path / "model")
    train(_trainer(tmp_path, "entropic", 2))
    folder = tmp_path / "run" / "checkpoint-2"
    with pytest.raises(ValueError, match="the checkpoint is one of entropic, got clip_cov"):
        train(_trainer(tmp_path, "clip_cov", 4), resume_from_checkpoint=str(folder))
    (folder / "recipe_state.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no recipe_state.pt.*recipe='clip_cov'"):
        train(_trainer(tmp_path, "clip_cov", 4), resume_from_checkpoint=str(folder))
