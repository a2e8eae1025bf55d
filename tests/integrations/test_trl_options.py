"""TRL's other features, which a recipe must not lose: each against TRL's own loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM
from trl import GRPOTrainer as TRLTrainer

from entropy_ext import linear_token_stats, recipes
from entropy_ext.integrations.trl import GRPOTrainer, head
from tests.integrations.trl_runs import batch_of, gradients, scripted, tiny_model, train, trainer

pytestmark = [
    # TRL 1.16 calls transformers 5.23 by names that it renamed.
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*experimental:UserWarning"),
]


def _both(folder: Path, *, ours: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    """TRL's trainer and ours, whose loss is a mean over tokens under TRL's conventions."""
    shared = options.pop("shared", {})
    recipe = recipes.get("grpo", eps=1e-4, aggregation="token-mean")
    return [
        trainer(TRLTrainer, folder, ours=shared, loss_type="dapo", **options),
        trainer(GRPOTrainer, folder, ours={**shared, "recipe": recipe, **(ours or {})}, **options),
    ]


def _batch(trained: Any) -> dict[str, Any]:
    torch.manual_seed(17)
    return batch_of(trained)


def test_truncated_responses_can_be_left_out(tmp_path: Path) -> None:
    """Learnt from all the same, or their rewards lost to the group."""
    options = {"shared": {"rollout_func": scripted}, "mask_truncated_completions": True}
    results = []
    for trained in _both(tmp_path, **options):
        batch = _batch(trained)
        empty = ~batch["completion_mask"].bool().any(-1)
        assert 0 < empty.sum() < len(empty)
        results.append(gradients(trained, batch))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)


def test_words_of_the_environment_are_not_learnt(tmp_path: Path) -> None:
    """A tool's answer inside a response is not the policy's."""

    def with_tool(prompts: list[str], trained: Any) -> dict[str, Any]:
        output = scripted(prompts, trained)
        masks = [[int(i != 1) for i, _ in enumerate(ids)] for ids in output["completion_ids"]]
        return {**output, "env_mask": masks}

    results = []
    for trained in _both(tmp_path, shared={"rollout_func": with_tool}):
        batch = _batch(trained)
        results.append(gradients(trained, batch))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)
    assert not trained.learner._plan.mask[:, 1].any()


def test_the_correction_for_vllm_is_a_weight(tmp_path: Path) -> None:
    """TRL corrects by default for a sampler that is another engine; a recipe must not lose that."""
    results = []
    for trained in _both(tmp_path, num_iterations=2):
        batch = _batch(trained)
        generator = torch.Generator().manual_seed(1)
        # As where the sampler is another engine; there is none here to sample with.
        trained.use_vllm = True
        batch["importance_sampling_ratio"] = 2 * torch.rand(8, 1, generator=generator)
        results.append(gradients(trained, batch))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)


def test_a_recipe_that_corrects_for_the_sampler_is_not_corrected_twice(tmp_path: Path) -> None:
    """The ratio would be squared."""
    with pytest.raises(ValueError, match="recipe masked_is corrects for the sampler itself"):
        trainer(GRPOTrainer, tmp_path, use_vllm=True, ours={"recipe": "masked_is"})


def test_a_routers_loss_is_kept(tmp_path: Path) -> None:
    """Left out, or counted once per micro-batch, experts would die or the loss be drowned."""

    def experts() -> MixtralForCausalLM:
        torch.manual_seed(0)
        return MixtralForCausalLM(
            MixtralConfig(
                vocab_size=122,
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                num_local_experts=4,
                initializer_range=0.2,
                router_aux_loss_coef=0.5,
                bos_token_id=None,
                eos_token_id=1,
                pad_token_id=0,
            )
        )

    with pytest.raises(ValueError, match=r"a router's loss .* pass chunked_head=False"):
        trainer(GRPOTrainer, tmp_path, model=experts())
    results = []
    for kind in (TRLTrainer, GRPOTrainer):
        recipe = recipes.get("grpo", eps=1e-4, aggregation="token-mean")
        ours = {"recipe": recipe, "chunked_head": False} if kind is GRPOTrainer else {}
        trained = trainer(
            kind,
            tmp_path,
            model=experts(),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            ours=ours,
        )
        _batch(trained)
        trained.model.zero_grad()
        for step, part in enumerate(trained._buffered_inputs):
            trained._step = step
            trained._compute_loss(trained.model, part).backward()
        results.append([p.grad for p in trained.model.parameters()])
        assert trained._metrics["train"]["aux_loss"][0] > 0
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunked_head", [True, False])
def test_autocast_to_bfloat16_trains_as_trl(chunked_head: bool, tmp_path: Path) -> None:
    """Hidden states of one dtype and weights of another would not multiply."""
    first = []
    for trained in _both(tmp_path, bf16=True, ours={"chunked_head": chunked_head}):
        torch.manual_seed(17)
        first.append(train(trained)[0])
        assert all(p.dtype == torch.float32 for p in trained.model.parameters())
    theirs, ours = first
    assert ours["entropy"] == pytest.approx(theirs["entropy"], abs=1e-4)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-2)


@pytest.mark.parametrize("chunked_head", [True, False])
def test_a_float32_output_layer_on_a_half_precision_model(
    chunked_head: bool, tmp_path: Path
) -> None:
    """Projected in bfloat16 all the same, entropies are off by 1e-3."""
    scores = []
    for kind in (TRLTrainer, GRPOTrainer):
        ours = {"chunked_head": chunked_head} if kind is GRPOTrainer else {}
        trained = trainer(
            kind,
            tmp_path,
            model=tiny_model(tie_word_embeddings=False).to(torch.bfloat16),
            cast_lm_head_to_fp32=True,
            ours=ours,
        )
        batch = _batch(trained)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        scores.append(
            trained._get_per_token_logps_and_entropies(
                trained.model, ids, mask, batch["completion_ids"].shape[1], compute_entropy=True
            )[:2]
        )
    torch.testing.assert_close(scores[1], scores[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("recipe", "passes"),
    # Micro-batches of the loss; those of the generation, for old_logp; and of the second of two
    # mini-batches, for statistics of the policy as it then is.
    [(None, 4), ("opo", 4 + 4), ("entropic", 4 + 4 + 2)],
)
def test_forward_passes_are_those_that_are_said(
    recipe: str | None, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of its own for the entropy would cost a third of the training."""
    calls = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args[2])
        return linear_token_stats(*args, **options)

    monkeypatch.setattr(head, "linear_token_stats", counted)
    # Without a recipe TRL needs no pass of its own for old_logp where it steps once.
    together = 4 if recipe is None else 2
    train(
        trainer(
            GRPOTrainer,
            tmp_path,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=together,
            steps_per_generation=4,
            max_steps=4 // together,
            ours={"recipe": recipe, "rollout_func": scripted},
        )
    )
    assert len(calls) == passes
    assert all(len(tokens) == 4 for tokens in calls)
