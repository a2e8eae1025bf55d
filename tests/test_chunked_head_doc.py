"""The examples of docs/chunked_head.md, run as they stand and held against stored logits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from entropy_ext import recipes, token_stats
from entropy_ext.recipes import Plan

PAGE = Path(__file__).parent.parent / "docs" / "chunked_head.md"
FIRST, RECIPE, RANKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def group() -> Iterator[dist.ProcessGroup]:
    """Of one process: what several get is tested in tests/distributed/test_linear_head_ranks.py."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


def after(*examples: str, **names: Any) -> dict[str, Any]:
    """What stands in the namespace after these examples."""
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    return names


def recipe_loss(at: dict[str, Any], logits: torch.Tensor, plan: Plan) -> torch.Tensor:
    stats = token_stats(logits, at["tokens"], mask=at["mask"])
    loss = at["recipe"].token_loss(stats, at["rollout"], at["targets"], plan).loss
    return plan.aggregate(loss)


def test_a_selection_over_all_tokens() -> None:
    """Catches an example whose gradient is not that of the loss it states."""
    at = after(FIRST)
    hidden, weight = (at[name].detach().clone().requires_grad_() for name in ("hidden", "weight"))
    stats = token_stats(hidden @ weight.T, at["tokens"], mask=at["mask"])
    ratio = (stats.logp - at["old_logp"]).exp()
    kept = at["mask"] & ~at["left_out"]
    loss = -torch.where(kept, at["advantages"] * ratio, 0.0).sum() / at["mask"].sum()
    loss.backward()
    assert 0 < at["left_out"].sum() < at["mask"].sum()
    torch.testing.assert_close(at["loss"].detach(), loss.detach(), rtol=1e-4, atol=1e-6)
    for name, truth in (("hidden", hidden.grad), ("weight", weight.grad)):
        torch.testing.assert_close(at[name].grad, truth, rtol=1e-4, atol=1e-6)
        assert truth.abs().max() > 1e-2


def test_a_recipe() -> None:
    """The same for the plan of a recipe."""
    at = after(FIRST, RECIPE)
    at["hidden"].grad = at["weight"].grad = None
    at["loss"].backward()
    hidden, weight = (at[name].detach().clone().requires_grad_() for name in ("hidden", "weight"))
    loss = recipe_loss(at, hidden @ weight.T, at["plan"])
    loss.backward()
    assert isinstance(at["recipe"], recipes.RECIPES["clip_cov"])
    torch.testing.assert_close(at["loss"].detach(), loss.detach(), rtol=1e-4, atol=1e-6)
    for name, truth in (("hidden", hidden.grad), ("weight", weight.grad)):
        torch.testing.assert_close(at[name].grad, truth, rtol=1e-4, atol=1e-6)
        assert truth.abs().max() > 1e-2


def test_in_micro_batches_under_a_wrapper(group: dist.ProcessGroup) -> None:
    """The same for the gradients that micro-batches add up to."""
    at = after(FIRST, RECIPE, RANKS, group=group)
    found = [parameter.grad for parameter in at["policy"].parameters()]
    at["policy"].zero_grad()
    logits = at["policy"].head(at["policy"].trunk(at["inputs"]))
    recipe_loss(at, logits, at["plan"]).backward()
    for ours, parameter in zip(found, at["policy"].parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)
        assert parameter.grad.abs().max() > 1e-3
