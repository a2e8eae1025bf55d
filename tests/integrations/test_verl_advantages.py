"""Registered advantage estimators against the recipes and against verl's own functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from entropy_ext import recipes
from entropy_ext.integrations.verl import COVERAGE, register, unregister
from tests.integrations.verl_cases import UNSTAGED

pytest.importorskip("verl", reason="verl is not installed: `make test-verl` runs these")

REFUSED = [name for name, row in COVERAGE.items() if row.loss is None]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(UNSTAGED, correct_above=0.5)
    yield
    unregister()


def _scored(seed: int, *, singles: bool = False) -> dict[str, Any]:
    """Responses to shuffled prompts, 0 or 1 each on the last token; perhaps one alone."""
    draw = torch.Generator().manual_seed(seed)
    rows, width = 24, 10
    lengths = torch.randint(2, width + 1, (rows,), generator=draw)
    mask = torch.arange(width) < lengths[:, None]
    rewards = torch.zeros(rows, width)
    rewards[torch.arange(rows), lengths - 1] = torch.randint(0, 2, (rows,), generator=draw).float()
    prompts = torch.arange(rows)[torch.randperm(rows, generator=draw)] // 6
    if singles:
        prompts[0] = 99
    uid = np.array([f"uid-{prompt}" for prompt in prompts.tolist()], dtype=object)
    return {"token_level_rewards": rewards, "response_mask": mask, "index": uid}


def _estimated(name: str, given: dict[str, Any], config: Any = None) -> tuple[Tensor, Tensor]:
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    advantages, returns = get_adv_estimator_fn(name)(config=config, **given)
    return advantages, returns


SAME: list[tuple[str, str, dict[str, Any]]] = [
    ("grpo", "grpo", {"singleton": "reward"}),
    ("grpo_vectorized", "grpo", {"singleton": "reward"}),
    ("rloo", "rloo", {"singleton": "reward"}),
    ("opo", "opo", {"singleton": "reward"}),
]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("theirs", "ours", "options"), SAME)
def test_agrees_with_verls_own(theirs: str, ours: str, options: dict[str, Any], seed: int) -> None:
    """Would catch rewards summed over padding, groups mixed up, another standard deviation."""
    register({ours: options})
    given = _scored(seed, singles=True)
    mask = given["response_mask"]
    advantages, returns = _estimated(f"entropy_ext/{ours}", given)
    expected, _ = _estimated(theirs, {**given, "response_mask": mask.float()})
    torch.testing.assert_close(advantages, expected * mask, rtol=1e-5, atol=2e-6)
    assert torch.equal(advantages, returns)
    assert advantages.abs().max() > 0


def test_agrees_with_verls_gpg() -> None:
    """Would catch GPG's factor over the group instead of the rollout."""
    given = _scored(3)
    mask = given["response_mask"]
    advantages, _ = _estimated("entropy_ext/gpg", given)
    expected, _ = _estimated("gpg", {**given, "response_mask": mask.float()})
    torch.testing.assert_close(advantages, expected * mask, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("baseline", ["batch", "group"])
def test_reinforce_pp_whitens_over_all_tokens_where_verl_takes_one_off(baseline: str) -> None:
    """verl divides the variance by N − 1 tokens, ours by N; nothing else differs."""
    from verl.trainer.config import AlgoConfig

    register({"reinforce_pp": {"baseline": baseline, "singleton": "reward"}})
    given = _scored(3)
    mask = given["response_mask"]
    advantages, _ = _estimated("entropy_ext/reinforce_pp", given)
    theirs = {"batch": "reinforce_plus_plus", "group": "reinforce_plus_plus_baseline"}[baseline]
    expected, _ = _estimated(
        theirs, {**given, "response_mask": mask.float()}, AlgoConfig(gamma=1.0)
    )
    tokens = mask.sum()
    scale = (tokens / (tokens - 1)).sqrt()
    torch.testing.assert_close(advantages, expected * mask * scale, rtol=1e-5, atol=1e-5)


def test_grpo_differs_from_verl_in_a_group_of_one_alone() -> None:
    """Ours is 0 where verl's is the reward, unless singleton says otherwise."""
    given = _scored(4, singles=True)
    ours, _ = _estimated("entropy_ext/grpo", given)
    theirs, _ = _estimated("grpo", given)
    alone = given["index"] == "uid-99"
    torch.testing.assert_close(ours[~alone], (theirs * given["response_mask"])[~alone])
    assert (ours[alone] == 0).all()


@pytest.mark.parametrize("name", ["psr", "nsr", "w_reinforce", "starter"])
def test_right_and_wrong_are_told_by_reward(name: str) -> None:
    """Would catch a threshold on the wrong side, and dropped responses that are learnt from."""
    given = _scored(5)
    right = given["token_level_rewards"].sum(-1) > 0.5
    advantages, _ = _estimated(f"entropy_ext/{name}", given)
    positive = {"psr": 1.0, "nsr": 0.0, "w_reinforce": 0.1, "starter": 0.1}[name]
    negative = {"psr": 0.0, "nsr": -1.0, "w_reinforce": -1.0, "starter": -1.0}[name]
    expected = torch.where(right, positive, negative)[:, None] * given["response_mask"]
    torch.testing.assert_close(advantages, expected)
    register()
    with pytest.raises(ValueError, match="correct_above"):
        _estimated(f"entropy_ext/{name}", given)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_estimator_names_what_is_missing(name: str) -> None:
    """Would catch advantages out of made-up fields."""
    with pytest.raises(ValueError, match=name) as caught:
        _estimated(f"entropy_ext/{name}", _scored(6))
    assert COVERAGE[name].missing in str(caught.value)


@pytest.mark.parametrize("name", [name for name in COVERAGE if name not in REFUSED])
def test_every_other_estimator_gives_finite_advantages(name: str) -> None:
    """Would catch a recipe that asks here for fields which exist only later."""
    given = _scored(7)
    given["token_level_rewards"][~given["response_mask"]] = torch.nan
    advantages, _ = _estimated(f"entropy_ext/{name}", given)
    assert advantages.isfinite().all()
    assert advantages[given["response_mask"]].abs().max() > 0
    assert (advantages[~given["response_mask"]] == 0).all()


def test_through_verls_own_compute_advantage() -> None:
    """Would catch arguments that verl's trainer passes and the estimator does not take."""
    from tensordict import TensorDict
    from verl import DataProto
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo.ray_trainer import compute_advantage

    given = _scored(8)
    tensors = {name: given[name] for name in ("token_level_rewards", "response_mask")}
    data = DataProto(
        batch=TensorDict(tensors, batch_size=[24]), non_tensor_batch={"uid": given["index"]}
    )
    name = "entropy_ext/dr_grpo"
    found = compute_advantage(data, name, config=AlgoConfig(adv_estimator=name))
    rewards = given["token_level_rewards"].sum(-1)
    for uid in set(given["index"]):
        rows = torch.as_tensor(given["index"] == uid)
        expected = rewards[rows] - rewards[rows].mean()
        torch.testing.assert_close(found.batch["advantages"][rows, 0], expected)


def test_recipes_default_is_untouched() -> None:
    """Would catch a recipe whose needs are narrowed for everybody."""
    assert recipes.get("steer").needs == {"old_entropy"}
