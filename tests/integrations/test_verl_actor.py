"""The actor hook in an engine driven by verl's own batching, micro-batches and loss functions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from entropy_ext import TokenStats, recipes, token_stats
from entropy_ext.integrations.verl import COVERAGE, attach, register, unregister
from entropy_ext.recipes import Recipe, Targets
from entropy_ext.rl import Rollout
from tests.integrations.verl_cases import actor_config

pytest.importorskip("verl", reason="verl is not installed: `make test-verl` runs these")

HOOKED = [name for name, row in COVERAGE.items() if row.loss == "actor hook"]
# Many tokens chosen, so that choices matter in a batch this small.
OPTIONS: dict[str, dict[str, Any]] = {
    "clip_cov": {"fraction": 0.2, "bounds": (0.05, 5.0)},
    "kl_cov": {"fraction": 0.2},
    "advanced": {"fraction": 0.2, "bounds": (0.05, 5.0), "target": 2.0, "stages": 1},
    "sent": {"cov_fraction": 0.2, "stages": 1},
    "entropic": {"target": 2.0, "confident": 0.2},
    "skywork_or1": {"target": 3.0, "gate": "current_le"},
    "erc": {"entropy_low": 0.5, "entropy_high": 0.5},
}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(OPTIONS)
    yield
    unregister()


def _config(mode: str, **settings: Any) -> Any:
    name = mode.removeprefix("entropy_ext/")
    if name in COVERAGE:
        settings.setdefault("loss_agg_mode", recipes.get(name).aggregation)
    return actor_config(mode, **settings)


def _loss_function(config: Any) -> Any:
    from verl.workers.utils.losses import ppo_loss

    return functools.partial(ppo_loss, config=config)


def _gradient(mode: str, micro_batch: int, **settings: Any) -> tuple[Tensor, dict[str, Any]]:
    """Of one optimizer step from a fresh engine, and what it reports."""
    from tests.integrations.verl_engine import BigramEngine, training_data

    engine = BigramEngine()
    engine.step_optimizer = False
    attach(engine)
    output = engine.train_batch(
        training_data(0, micro_batch=micro_batch), _loss_function(_config(mode, **settings))
    )
    return engine.module.weight.grad, output


def _direct(recipe: Recipe) -> Tensor:
    """The same gradient without verl: one padded batch, one pass."""
    from tests.integrations.verl_engine import BigramEngine, training_data

    data = training_data(0)
    table = BigramEngine().module.weight.detach().clone().requires_grad_()
    padded = {
        name: data[name].to_padded_tensor(0)
        for name in (
            "response_mask",
            "old_log_probs",
            "ref_log_prob",
            "rollout_log_probs",
            "entropy",
            "advantages",
            "responses",
        )
    }
    mask = padded["response_mask"].bool()
    tokens = padded["responses"]
    last = torch.stack([prompt[-1] for prompt in data["prompts"].unbind()])
    before = torch.cat([last[:, None], tokens[:, :-1]], dim=1)
    stats = token_stats(table[before], tokens, mask=mask)
    zeros = torch.zeros(len(mask))
    rollout = Rollout(
        tokens=tokens,
        mask=mask,
        rewards=zeros,
        prompt=zeros.long(),
        old_logp=padded["old_log_probs"],
        ref_logp=padded["ref_log_prob"],
        rollout_logp=padded["rollout_log_probs"],
        old_entropy=padded["entropy"],
        correct=zeros.bool(),
        max_length=mask.shape[1],
        step=0,
        progress=0.0,
    )
    targets = Targets(padded["advantages"])
    detached = TokenStats._make(None if x is None else x.detach() for x in stats)
    plan = recipe.prepare(detached, rollout, targets)
    plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss).backward()
    assert table.grad is not None
    return table.grad


@pytest.mark.parametrize("micro_batch", [2, 8])
@pytest.mark.parametrize("name", HOOKED)
def test_gradient_is_the_recipes_however_the_batch_is_cut(name: str, micro_batch: int) -> None:
    """Would catch selection per micro-batch, rows of another micro-batch, a lost normaliser, an
    entropy that carries no gradient and fields that never arrive."""
    gradient, _ = _gradient(f"entropy_ext/{name}", micro_batch)
    expected = _direct(recipes.get(name, **OPTIONS.get(name, {})))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["kl_cov", "erc", "entropic"])
def test_dynamic_micro_batches_find_their_rows(name: str) -> None:
    """Would catch a plan cut by position where verl sorts sequences by length."""
    import verl.utils.tensordict_utils as tu

    from tests.integrations.verl_engine import BigramEngine, training_data

    engine = BigramEngine()
    engine.step_optimizer = False
    attach(engine)
    data = training_data(0)
    tu.assign_non_tensor(data, use_dynamic_bsz=True, max_token_len_per_gpu=20)
    engine.train_batch(data, _loss_function(_config(f"entropy_ext/{name}")))
    expected = _direct(recipes.get(name, **OPTIONS.get(name, {})))
    torch.testing.assert_close(engine.module.weight.grad, expected, rtol=2e-5, atol=1e-6)


def test_kl_cov_is_verls_over_a_single_micro_batch() -> None:
    """verl chooses within each micro-batch (its issue 7829); over one, both choose the same."""
    settings = {"loss_agg_mode": "token-mean"}
    theirs = {"policy_loss_kl_cov_ratio": 0.2, "policy_loss_ppo_kl_coef": 1.0}
    ours, _ = _gradient("entropy_ext/kl_cov", 8, **settings)
    whole, _ = _gradient("kl_cov", 8, **settings, **theirs)
    torch.testing.assert_close(ours, whole, rtol=2e-5, atol=1e-6)
    cut, _ = _gradient("kl_cov", 2, **settings, **theirs)
    assert (cut - whole).abs().max() > 1e-3


def test_clip_cov_is_verls_where_nothing_is_drawn_at_random() -> None:
    """With all candidates left out, and a clip at 0 to 2, both are the same function."""
    register({"clip_cov": {"fraction": 1.0, "bounds": (0.05, 5.0)}})
    settings = {"loss_agg_mode": "token-mean"}
    ours, _ = _gradient("entropy_ext/clip_cov", 8, **settings)
    theirs, _ = _gradient(
        "clip_cov",
        8,
        clip_ratio_low=1.0,
        clip_ratio_high=1.0,
        policy_loss_clip_cov_ratio=1.0,
        policy_loss_clip_cov_lb=0.05,
        policy_loss_clip_cov_ub=5.0,
        **settings,
    )
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["vanilla", "entropy_ext/dapo"])
def test_policy_losses_pass_through_untouched(mode: str) -> None:
    """Would catch a hook that changes what verl can do by itself."""
    from tests.integrations.verl_engine import BigramEngine, training_data

    hooked, _ = _gradient(mode, 2)
    engine = BigramEngine()
    engine.step_optimizer = False
    engine.train_batch(training_data(0, micro_batch=2), _loss_function(_config(mode)))
    assert torch.equal(hooked, engine.module.weight.grad)
    assert engine.forward_only_passes == 0


def test_an_option_moves_a_recipe_to_the_hook() -> None:
    """Would catch an entropy bonus that the registered loss cannot see."""
    register({"dapo": {"entropy_coef": 0.1}, "gspo": {"kl_coef": 0.1}})
    for name, option in (("dapo", {"entropy_coef": 0.1}), ("gspo", {"kl_coef": 0.1})):
        gradient, _ = _gradient(f"entropy_ext/{name}", 2)
        expected = _direct(recipes.get(name, **option))
        torch.testing.assert_close(gradient, expected, rtol=2e-5, atol=1e-6)


def test_importance_weights_multiply_the_policy_loss_alone() -> None:
    """verl weighs neither the KL penalty nor the entropy bonus: at weights of 0 those are left."""
    from tests.integrations.verl_engine import BigramEngine, training_data

    register({"gspo": {"kl_coef": 0.1, "entropy_coef": 0.1}})

    def gradient(changed: str) -> Tensor:
        engine = BigramEngine()
        engine.step_optimizer = False
        attach(engine)
        data = training_data(0)
        data[changed] = data["advantages"] * 0
        engine.train_batch(data, _loss_function(_config("entropy_ext/gspo")))
        return engine.module.weight.grad

    weighted, without_advantages = gradient("rollout_is_weights"), gradient("advantages")
    assert without_advantages.abs().max() > 1e-3
    torch.testing.assert_close(weighted, without_advantages, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["truncated_is", "masked_is", "minirl"])
def test_one_correction_for_the_sampler(name: str) -> None:
    """Both would weigh each token by the square of the mismatch."""
    from tests.integrations.verl_engine import BigramEngine, training_data

    engine = BigramEngine()
    attach(engine)
    data = training_data(0)
    data["rollout_is_weights"] = data["advantages"] * 0
    with pytest.raises(ValueError, match=f"recipe {name} corrects for the sampler itself"):
        engine.train_batch(data, _loss_function(_config(f"entropy_ext/{name}")))


def test_metrics_and_loss_are_reported_as_verl_aggregates_them() -> None:
    """Would catch a loss reported as a mean of shares, and a controller nobody can watch."""
    from verl.utils.metric import AggregationType

    _, whole = _gradient("entropy_ext/entropic", 8)
    _, cut = _gradient("entropy_ext/entropic", 2)
    for output in (whole, cut):
        metric = output["metrics"]["actor/pg_loss"]
        assert metric.aggregation is AggregationType.SUM
        assert metric.aggregate() == pytest.approx(sum(output["loss"]), rel=1e-6)
    assert sum(cut["loss"]) == pytest.approx(sum(whole["loss"]), rel=1e-5)
    assert cut["metrics"]["actor/coefficient_confident"].aggregate() != 0


def test_controllers_survive_a_checkpoint(tmp_path: Path) -> None:
    """Would catch an integral part, or a step, that starts anew where training goes on."""
    from tests.integrations.verl_engine import BigramEngine, training_data

    loss_function = _loss_function(_config("entropy_ext/entropic"))

    def trained(engine: Any, seeds: range) -> None:
        for seed in seeds:
            engine.train_batch(training_data(seed), loss_function)

    straight = BigramEngine()
    actor = attach(straight)
    trained(straight, range(2))
    straight.save_checkpoint(str(tmp_path / "global_step_2"))
    trained(straight, range(2, 4))

    resumed = BigramEngine()
    again = attach(resumed)
    resumed.load_checkpoint(str(tmp_path / "global_step_2"))
    trained(resumed, range(2, 4))
    assert torch.equal(straight.module.weight, resumed.module.weight)
    assert again.steps == actor.steps == 4
    assert actor.live["entropy_ext/entropic"].state_dict() == (
        again.live["entropy_ext/entropic"].state_dict()
    )

    # More ranks than before: one that has no file of its own takes another's.
    (tmp_path / "global_step_2" / "entropy_ext_rank_0.pt").rename(
        tmp_path / "global_step_2" / "entropy_ext_rank_1.pt"
    )
    widened = BigramEngine()
    attach(widened)
    widened.load_checkpoint(str(tmp_path / "global_step_2"))
    trained(widened, range(2, 4))
    assert torch.equal(straight.module.weight, widened.module.weight)

    # The controller matters: without its state the result is another.
    fresh = BigramEngine()
    fresh.module.load_state_dict(torch.load(tmp_path / "global_step_2" / "model.pt"))
    attach(fresh)
    trained(fresh, range(2, 4))
    assert not torch.equal(straight.module.weight, fresh.module.weight)


def test_engines_that_verl_builds_get_the_hook() -> None:
    """Would catch a registry whose engines train without the recipe."""
    from verl.workers.engine import EngineRegistry

    from tests.integrations.verl_engine import BigramEngine

    registry = EngineRegistry._engines
    EngineRegistry.register("bigram", "test", device=["cpu", "cuda"])(BigramEngine)
    try:
        engine = EngineRegistry.new("bigram", "test")
        assert engine.train_batch.__self__.engine is engine
        unregister()
        assert "train_batch" not in vars(EngineRegistry.new("bigram", "test"))
    finally:
        del registry["bigram"]


@pytest.mark.parametrize(
    ("name", "field", "setting"),
    [
        ("steer", "entropy", "bypass_mode"),
        ("sent", "ref_log_prob", "use_kl_loss"),
        ("minirl", "rollout_log_probs", "calculate_log_probs"),
    ],
)
def test_a_missing_field_is_named_with_its_setting(name: str, field: str, setting: str) -> None:
    """Would catch a recipe that goes on without what it was written for."""
    from tests.integrations.verl_engine import BigramEngine, training_data

    engine = BigramEngine()
    attach(engine)
    data = training_data(0)
    del data[field]
    with pytest.raises(ValueError, match=setting):
        engine.train_batch(data, _loss_function(_config(f"entropy_ext/{name}")))


def test_a_schedule_follows_verls_training_steps() -> None:
    """Would catch a schedule that stays at its start, with or without a length to go by."""
    from verl.workers.config import OptimizerConfig

    from tests.integrations.verl_engine import BigramEngine, training_data

    register({"positive_reweight": {"schedule": "stage"}})
    mode = "entropy_ext/positive_reweight"
    with pytest.raises(ValueError, match="total_training_steps"):
        _gradient(mode, 8)
    config = _config(mode, optim=OptimizerConfig(lr=1e-6, total_training_steps=4))
    engine = BigramEngine()
    engine.step_optimizer = False
    attach(engine)
    gradients = []
    for _ in range(4):
        engine.train_batch(training_data(0), _loss_function(config))
        gradients.append(engine.module.weight.grad.clone())
    # Only the weight of positive tokens changes between first and last quarter.
    assert not torch.equal(gradients[0], gradients[-1])


@pytest.mark.parametrize("name", ["sent", "advanced"])
def test_a_curriculum_is_refused(name: str) -> None:
    """Would catch a recipe that runs without a part of it, and nobody is told."""
    register()
    with pytest.raises(ValueError, match="stages=1"):
        _gradient(f"entropy_ext/{name}", 8)


def test_verls_own_terms_are_not_added_a_second_time() -> None:
    """Would catch an entropy bonus or a KL penalty that is set and never applied."""
    with pytest.raises(ValueError, match=r"actor\.entropy_coeff.*entropy_coef"):
        _gradient("entropy_ext/steer", 8, entropy_coeff=0.01)
    with pytest.raises(ValueError, match=r"actor\.kl_loss_coef.*kl_coef"):
        _gradient("entropy_ext/sent", 8, use_kl_loss=True, kl_loss_coef=0.01)
    with pytest.raises(ValueError, match=r"actor\.loss_agg_mode"):
        _gradient("entropy_ext/steer", 8, loss_agg_mode="seq-mean-token-mean")
