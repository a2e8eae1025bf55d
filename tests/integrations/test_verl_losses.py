"""Registered policy losses against the recipes themselves and against verl's own functions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from entropy_ext import TokenStats, recipes
from entropy_ext.integrations.verl import COVERAGE, register, unregister
from entropy_ext.recipes import Targets
from entropy_ext.rl import Rollout
from tests.integrations.verl_cases import UNSTAGED, Batch, actor_config, batch

pytest.importorskip("verl", reason="verl is not installed: `make test-verl` runs these")

REGISTERED = [name for name, row in COVERAGE.items() if row.loss == "policy loss"]
HOOKED = [name for name, row in COVERAGE.items() if row.loss == "actor hook"]
REFUSED = [name for name, row in COVERAGE.items() if row.loss is None]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(UNSTAGED, correct_above=0.5)
    yield
    unregister()


def _called(mode: str, given: Batch, **settings: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Loss, gradient of the log-probabilities, metrics."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    weights = settings.pop("rollout_is_weights", None)
    config = actor_config(mode, **settings)
    config.global_batch_info.update(loss_scale_factor=config.loss_scale_factor)
    logp = given.logp.clone().requires_grad_()
    loss, metrics = get_policy_loss_fn(mode)(
        old_log_prob=given.old_logp,
        log_prob=logp,
        advantages=given.advantages,
        response_mask=given.mask,
        loss_agg_mode=config.loss_agg_mode,
        config=config,
        rollout_is_weights=weights,
    )
    loss.backward()
    assert logp.grad is not None
    return loss.detach(), logp.grad, metrics


def _settings(name: str) -> dict[str, Any]:
    mode = recipes.get(name).aggregation
    settings: dict[str, Any] = {"loss_agg_mode": mode}
    if mode == "seq-mean-token-sum-norm":
        settings["loss_scale_factor"] = 12
    return settings


def _direct(name: str, given: Batch) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the recipe without verl."""
    recipe = recipes.get(name)
    rows = torch.zeros(len(given.mask))
    rollout = Rollout(
        tokens=torch.zeros_like(given.mask, dtype=torch.int64),
        mask=given.mask,
        rewards=rows,
        prompt=rows.long(),
        old_logp=given.old_logp,
        max_length=12,
        step=0,
        progress=0.0,
        correct=rows.bool(),
    )
    targets = Targets(given.advantages)
    plan = recipe.prepare(None, rollout, targets)
    logp = given.logp.clone().requires_grad_()
    stats = TokenStats(logp, torch.zeros_like(logp), torch.zeros_like(logp))
    loss = plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)
    loss.backward()
    assert logp.grad is not None
    return loss.detach(), logp.grad


@pytest.mark.parametrize("name", REGISTERED)
def test_registered_loss_is_the_recipes(name: str) -> None:
    """Would catch another clip, sign, normaliser or mask than the recipe's own."""
    given = batch(1)
    loss, gradient, _ = _called(f"entropy_ext/{name}", given, **_settings(name))
    expected, expected_gradient = _direct(name, given)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-8)
    assert gradient.abs().max() > 0


# verl's loss, our recipe, verl's settings at which both are the same function.
SAME: list[tuple[str, str, dict[str, Any]]] = [
    ("vanilla", "grpo", {"clip_ratio_c": 1e9}),
    ("vanilla", "two_sided", {"clip_ratio_c": 4.0}),
    ("vanilla", "dapo", {"clip_ratio_high": 0.28, "clip_ratio_c": 1e9}),
    ("gspo", "gspo", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}),
    ("sapo", "sapo", {}),
    ("gpg", "gpg", {}),
    ("geo_mean", "gmpo", {"clip_ratio_low": 0.4, "clip_ratio_high": 0.4}),
    ("dro", "dro", {"policy_loss_dro_beta": 0.1}),
    ("cispo", "cispo", {"clip_ratio_low": 1.0}),
    ("dppo_tv", "dppo_tv", {"clip_ratio_low": 0.15, "clip_ratio_high": 0.15, "clip_ratio_c": 20.0}),
    ("dppo_kl", "dppo_kl", {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "clip_ratio_c": 20.0}),
]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("theirs", "ours", "settings"), SAME)
def test_agrees_with_verls_own(theirs: str, ours: str, settings: dict[str, Any], seed: int) -> None:
    """Would catch a bound on the wrong side, another threshold, another normaliser than verl's."""
    given, shared = batch(seed, spread=0.5), _settings(ours)
    loss, gradient, _ = _called(f"entropy_ext/{ours}", given, **shared)
    expected, expected_gradient, _ = _called(theirs, given, **{**shared, **settings})
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=2e-6, atol=1e-7)


def test_metrics_of_the_same_name_are_verls() -> None:
    """Would catch a clip fraction or a divergence divided by another count than verl's."""
    given = batch(4, spread=0.5)
    settings = {"loss_agg_mode": "seq-mean-token-mean"}
    _, _, ours = _called("entropy_ext/two_sided", given, **settings)
    _, _, theirs = _called("vanilla", given, clip_ratio_c=4.0, **settings)
    for name in ("actor/pg_clipfrac", "actor/ppo_kl"):
        assert float(ours[name]) == pytest.approx(theirs[name], rel=1e-5)


def test_where_a_large_ratio_must_differ() -> None:
    """verl's GMPO, Clip-Cov and KL-Cov exponentiate any log-ratio; ours stays finite."""
    given = batch(5)
    given.logp[0, 0], given.old_logp[0, 0], given.advantages[0] = -0.1, -200.0, -1.0
    settings = {"loss_agg_mode": "token-mean"}
    theirs, _, _ = _called("clip_cov", given, **settings)
    ours, gradient, _ = _called("entropy_ext/ce_gppo", given, **settings)
    assert not torch.isfinite(theirs)
    assert torch.isfinite(ours)
    assert gradient.isfinite().all()


def test_importance_weights_multiply_each_token() -> None:
    """Would catch weights that are ignored, or applied after the mean."""
    given = batch(6)
    weights = torch.rand(given.mask.shape) + 0.5
    settings = {"loss_agg_mode": "token-mean", "rollout_is_weights": weights}
    ours, _, _ = _called("entropy_ext/cispo", given, **settings)
    theirs, _, _ = _called("cispo", given, clip_ratio_low=1.0, **settings)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)


def test_padding_may_hold_nan() -> None:
    """Would catch masking by multiplication before verl's own averaging."""
    given = batch(7)
    poisoned = Batch(
        *(torch.where(given.mask, value, torch.nan) for value in given[:3]), given.mask
    )
    settings = {"loss_agg_mode": "token-mean"}
    loss, gradient, _ = _called("entropy_ext/dapo", poisoned, **settings)
    expected, expected_gradient, _ = _called("entropy_ext/dapo", given, **settings)
    assert loss == expected
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_loss_names_what_is_missing(name: str) -> None:
    """Would catch a recipe that trains on made-up fields."""
    with pytest.raises(ValueError, match=name) as caught:
        _called(f"entropy_ext/{name}", batch(8))
    assert COVERAGE[name].missing in str(caught.value)


@pytest.mark.parametrize("name", HOOKED)
def test_hooked_loss_refuses_to_run_alone(name: str) -> None:
    """Would catch per-micro-batch selection in an engine that the hook never reached."""
    with pytest.raises(RuntimeError, match="actor hook"):
        _called(f"entropy_ext/{name}", batch(9), **_settings(name))


def test_another_aggregation_is_an_error() -> None:
    """Would catch a recipe averaged otherwise than it says, without a word."""
    with pytest.raises(ValueError, match=r"actor\.loss_agg_mode.*seq-mean-token-mean"):
        _called("entropy_ext/grpo", batch(10), loss_agg_mode="token-mean")
    with pytest.raises(ValueError, match=r"actor\.loss_scale_factor"):
        _called("entropy_ext/dr_grpo", batch(10), loss_agg_mode="seq-mean-token-sum-norm")


def test_options_reach_the_recipe() -> None:
    """Would catch options that are dropped, and an unknown recipe that is accepted."""
    given, settings = batch(11, spread=0.5), {"loss_agg_mode": "token-mean"}
    narrow, _, _ = _called("entropy_ext/dapo", given, **settings)
    register({"dapo": {"clip_high": 5.0}})
    wide, _, _ = _called("entropy_ext/dapo", given, **settings)
    assert narrow != wide
    with pytest.raises(ValueError, match="dapoo"):
        register({"dapoo": {}})


def test_an_entropy_bonus_or_a_penalty_needs_the_hook() -> None:
    """Would catch a bonus on entropies that the signature does not carry."""
    register({"grpo": {"entropy_coef": 0.01}, "gspo": {"kl_coef": 0.1}})
    for name in ("grpo", "gspo"):
        with pytest.raises(RuntimeError, match="actor hook"):
            _called(f"entropy_ext/{name}", batch(12), **_settings(name))


def test_signatures_and_registries_are_restored() -> None:
    """Would catch parameters that verl has and we have not, and names left behind."""
    from verl.trainer.ppo import core_algos
    from verl.workers.engine import EngineRegistry

    theirs = inspect.signature(core_algos.get_policy_loss_fn("vanilla"))
    ours = inspect.signature(core_algos.get_policy_loss_fn("entropy_ext/grpo"))
    assert list(ours.parameters) == list(theirs.parameters)
    unregister()
    for registry in (core_algos.POLICY_LOSS_REGISTRY, core_algos.ADV_ESTIMATOR_REGISTRY):
        assert not [name for name in registry if "entropy_ext" in name]
    assert EngineRegistry.new.__func__.__name__ == "new"
