"""What a response's rewards, and the arguments beside them, tell a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from entropy_ext import recipes
from entropy_ext.integrations.trl import GRPOTrainer
from entropy_ext.integrations.trl.rewarded import Rewarded
from entropy_ext.recipes import Recipe, Targets
from entropy_ext.rl import Rollout
from tests.integrations.trl_runs import (
    PROMPTS,
    batch_of,
    early_words,
    first_word,
    gradients,
    scripted,
    tiny_model,
    train,
    trainer,
)

pytestmark = [
    # TRL 1.16 calls transformers 5.23 by names that it renamed.
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*experimental:UserWarning"),
]

NAN = float("nan")


def _rewarded(**changes: Any) -> Rewarded:
    return Rewarded(
        **{
            "rewards": torch.tensor([[1.0, 0.5], [0.0, NAN], [NAN, NAN], [-1.0, 0.5]]),
            "weights": torch.tensor([1.0, 2.0]),
            "truncated": torch.tensor([True, False, False, True]),
            "answers": ["a", None, "b", "b"],
            "domain": [0, 1, 1, 0],
            **changes,
        }
    )


def test_total_is_the_weighted_sum_of_the_rewards_there_are() -> None:
    """A function without a verdict must count as none, not as NaN for the whole response."""
    assert _rewarded().total.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert _rewarded().scored.tolist() == [True, True, False, True]


def test_correct_is_a_positive_total_or_what_the_caller_says() -> None:
    """The weight of a reward for form would turn wrong into right."""
    needs = {"correct", "truncated", "answers", "domain"}
    fields = _rewarded().fields(needs, None)
    assert fields["correct"].tolist() == [True, False, False, False]
    fields = _rewarded().fields(needs, lambda rewards: rewards[:, 1] == 0.5)
    assert fields["correct"].tolist() == [True, False, False, True]
    assert fields["truncated"].tolist() == [True, False, False, True]
    assert fields["answers"] == ["a", None, "b", "b"]
    assert fields["domain"].tolist() == [0, 1, 1, 0]
    assert _rewarded().fields(set(), None) == {}


def test_correct_of_several_rewards_reaches_the_recipe(tmp_path: Path) -> None:
    """The verdict must be of the same responses, in the order that TRL shuffled them into."""
    seen: list[Tensor] = []

    def correct(rewards: Tensor) -> Tensor:
        seen.append(rewards)
        return rewards[:, 1] > 0

    ours = trainer(
        GRPOTrainer,
        tmp_path,
        reward=[early_words, first_word],
        ours={"recipe": "w_reinforce", "correct": correct, "rollout_func": scripted},
    )
    batch = batch_of(ours)
    ours._compute_loss(ours.model, batch)
    texts = ours.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    shown = ours.learner._collected[True].rollout.rows(batch["response"])
    assert shown.correct.tolist() == [reward > 0 for reward in first_word(texts)]
    assert 0 < shown.correct.sum() < 8
    assert seen[0].shape == (8, 2)


def test_a_column_of_domains_reaches_the_recipe(tmp_path: Path) -> None:
    """DeepSeek-V3.2 weighs the divergence by the kind of task: of the wrong prompt, it would not.

    The reference is the policy's start, so that a divergence is there once the weights move.
    """
    tiny_model().save_pretrained(tmp_path / "model")
    losses = {}
    for factor in (1.0, 3.0):
        recipe = recipes.get(
            "deepseek_v32", behaviour="trainer", kl_coef=0.5, domain_kl={0: factor, 1: factor}
        )
        ours = trainer(
            GRPOTrainer,
            tmp_path,
            model=str(tmp_path / "model"),
            # No signal but the penalty's.
            reward=lambda completions, **_: [0.0] * len(completions),
            num_iterations=2,
            data={"prompt": PROMPTS, "domain": [0, 1] * 4},
            ours={"recipe": recipe, "rollout_func": scripted},
        )
        batch = batch_of(ours)
        domains = ours.learner._collected[True].rollout.domain
        assert domains.view(2, 4).unique(dim=1).shape == (2, 1)
        with torch.no_grad():
            for parameter in ours.model.parameters():
                parameter.mul_(1.05)
        losses[factor], _ = gradients(ours, batch)
    assert losses[3.0] > 1e-4
    torch.testing.assert_close(losses[3.0], 3 * losses[1.0])


def test_a_prompt_without_a_domain_is_named(tmp_path: Path) -> None:
    """Data for validation without the column would fail on a tensor of None."""
    recipe = recipes.get("deepseek_v32", behaviour="trainer", kl_coef=0.0, domain_kl={0: 2.0})
    data = {"prompt": PROMPTS, "domain": [None] * 8}
    with pytest.raises(ValueError, match="domain: expected an integer in every row"):
        batch_of(trainer(GRPOTrainer, tmp_path, data=data, ours={"recipe": recipe}))


class _Diary(Recipe):
    name = "diary"

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[tuple[int, float, int]] = []

    def targets(self, rollout: Rollout, *, group: Any = None) -> Targets:
        self.pages.append((rollout.step, rollout.progress, rollout.max_length))
        return super().targets(rollout, group=group)


def test_a_step_of_the_recipe_is_a_generation(tmp_path: Path) -> None:
    """Counted by optimizer steps, a schedule would run ahead by the mini-batches and epochs."""
    ours = trainer(
        GRPOTrainer,
        tmp_path,
        steps_per_generation=2,
        num_iterations=2,
        max_steps=8,
        ours={"recipe": _Diary(), "rollout_func": scripted},
    )
    train(ours)
    assert ours.learner.recipe.pages == [(0, 0.0, 6), (1, 0.5, 6)]
