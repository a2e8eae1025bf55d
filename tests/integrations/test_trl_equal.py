"""Recipe grpo under TRL's conventions is TRL's own trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM
from trl import GRPOTrainer as TRLTrainer

from entropy_ext import recipes
from entropy_ext.integrations.trl import GRPOTrainer
from tests.integrations.trl_runs import batch_of, gradients, settings, tiny_model, trainer

# TRL 1.16 calls transformers 5.23 by names that it renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")

AGGREGATION = {
    "grpo": "seq-mean-token-mean",
    "dapo": "token-mean",
    "bnpo": "token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}


def _nudge(model: nn.Module) -> None:
    """Weights as some optimizer steps would leave them: ratios differ from 1, some are clipped."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def _batch(trained: Any) -> dict[str, Any]:
    torch.manual_seed(17)
    return batch_of(trained)


@pytest.mark.parametrize("chunked_head", [True, False])
@pytest.mark.parametrize(("beta", "estimator"), [(0.0, "k3"), (0.04, "k3"), (0.04, "unbiased")])
@pytest.mark.parametrize("loss_type", AGGREGATION)
def test_loss_and_gradient_are_trls(
    loss_type: str, beta: float, estimator: Any, chunked_head: bool, tmp_path: Path
) -> None:
    """Another normaliser, advantage, clip, KL estimate, temperature or log-probability would show.

    On the second pass over the responses, after an update, so that nothing cancels.
    """
    tiny_model().save_pretrained(tmp_path / "model")
    common = {"model": str(tmp_path / "model"), "num_iterations": 2}
    own = {"loss_type": loss_type, "use_bias_correction_kl": estimator == "unbiased"}
    theirs = trainer(TRLTrainer, tmp_path, beta=beta, **own, **common)
    options = {"aggregation": AGGREGATION[loss_type], "kl_coef": beta, "kl_estimator": estimator}
    recipe = recipes.get("grpo", eps=1e-4, **options)
    ours = trainer(
        GRPOTrainer, tmp_path, ours={"recipe": recipe, "chunked_head": chunked_head}, **common
    )

    losses, grads, batches = [], [], []
    for trained in (theirs, ours):
        batches.append(_batch(trained))
        _nudge(trained.model)
        loss, gradient = gradients(trained, batches[-1])
        losses.append(loss)
        grads.append(gradient)

    torch.testing.assert_close(batches[0]["completion_ids"], batches[1]["completion_ids"])
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grads[1], grads[0], atol=1e-5, rtol=1e-5)
    clipped = theirs._metrics["train"]["clip_ratio/region_mean"][-1]
    assert 0.05 < clipped < 0.95
    for name in ("entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", *["kl"] * (beta > 0)):
        ours_logged, logged = (t._metrics["train"][name][-1] for t in (ours, theirs))
        assert ours_logged == pytest.approx(logged, abs=1e-5), name


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_micro_batches_add_up_as_trls(loss_type: str, tmp_path: Path) -> None:
    """A loss scaled once too often, or not at all, for the accumulation of gradients would show."""
    common = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    theirs = trainer(TRLTrainer, tmp_path, loss_type=loss_type, **common)
    recipe = recipes.get("grpo", eps=1e-4, aggregation=AGGREGATION[loss_type])
    ours = trainer(GRPOTrainer, tmp_path, ours={"recipe": recipe}, **common)
    sums = []
    for trained in (theirs, ours):
        _batch(trained)
        trained.model.zero_grad()
        for step, part in enumerate(trained._buffered_inputs):
            trained._step = step
            trained._compute_loss(trained.model, part).backward()
        sums.append([p.grad for p in trained.model.parameters()])
    torch.testing.assert_close(sums[1], sums[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunked_head", [True, False])
def test_without_a_recipe_only_the_scores_are_ours(chunked_head: bool, tmp_path: Path) -> None:
    """TRL's own loss on our statistics is TRL's loss, its entropy bonus included."""
    common = {"entropy_coef": 0.05, "top_entropy_quantile": 0.5, "num_iterations": 2}
    theirs = trainer(TRLTrainer, tmp_path, **common)
    ours = trainer(GRPOTrainer, tmp_path, ours={"chunked_head": chunked_head}, **common)
    results = []
    for trained in (theirs, ours):
        batch = _batch(trained)
        _nudge(trained.model)
        results.append(gradients(trained, batch))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)


def _scores(trained: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logp, entropy, _ = trained._get_per_token_logps_and_entropies(
        trained.model, ids, mask, batch["completion_ids"].shape[1], compute_entropy=True
    )
    return logp, entropy


@pytest.mark.parametrize("chunked_head", [True, False])
def test_half_precision_logits_are_divided_in_float32(chunked_head: bool, tmp_path: Path) -> None:
    """Logits rounded once more, after the division by the temperature, miss by 1e-2."""
    model = tiny_model().to(torch.bfloat16)
    ours = trainer(
        GRPOTrainer, tmp_path, model=model, temperature=0.7, ours={"chunked_head": chunked_head}
    )
    batch = _batch(ours)
    logp, entropy = _scores(ours, batch)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -logp.shape[1] - 1 : -1]
    truth = (logits.double() / 0.7).log_softmax(-1)
    learnt = batch["completion_mask"].bool()
    tokens = batch["completion_ids"].unsqueeze(-1)
    expected = torch.where(learnt, truth.gather(-1, tokens).squeeze(-1), 0.0)
    expected_entropy = torch.where(learnt, -(truth.exp() * truth).sum(-1), 0.0)
    torch.testing.assert_close(logp.double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(entropy.double(), expected_entropy, atol=2e-6, rtol=0)


@pytest.mark.parametrize("chunked_head", [True, False])
def test_impossible_tokens_leave_values_and_gradients_finite(
    chunked_head: bool, tmp_path: Path
) -> None:
    """0·(−inf) in the entropy or in its gradient would be NaN in every parameter."""
    model = tiny_model()
    bias = torch.zeros(model.config.vocab_size)
    bias[50:60] = -torch.inf
    model.lm_head.bias = nn.Parameter(bias)
    recipe = recipes.get("grpo", entropy_coef=0.1)
    ours = trainer(
        GRPOTrainer, tmp_path, model=model, ours={"recipe": recipe, "chunked_head": chunked_head}
    )
    batch = _batch(ours)
    assert not torch.isin(batch["completion_ids"], torch.arange(50, 60)).any()
    loss, grads = gradients(ours, batch)
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in grads)
    assert ours._metrics["train"]["entropy"][-1] > 1.0
    assert all((grad[50:60] == 0).all() for grad in grads if grad.shape == bias.shape)


def test_a_softcapped_model_is_refused_the_chunked_head_and_scored_right_without(
    tmp_path: Path,
) -> None:
    """Leaving out a transformation of the logits would train another distribution in silence."""
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=122,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            initializer_range=0.2,
            final_logit_softcapping=2.0,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    with pytest.raises(ValueError, match=r"final_logit_softcapping=2\.0.*chunked_head=False"):
        trainer(GRPOTrainer, tmp_path, model=model)
    ours = trainer(GRPOTrainer, tmp_path, model=model, ours={"chunked_head": False})
    theirs = trainer(TRLTrainer, tmp_path, model=model)
    batch = _batch(ours)
    torch.testing.assert_close(_scores(ours, batch), _scores(theirs, batch), atol=1e-5, rtol=0)
    assert settings(tmp_path).temperature != 1
