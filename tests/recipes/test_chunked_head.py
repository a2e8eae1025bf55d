"""Every recipe through the chunked head: a first pass for what is global, then losses by chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from entropy_ext import TokenStats, linear_token_loss, linear_token_stats, recipes
from tests.recipe_runs import Prepared, T, V, loss, make_logits, make_rollout

D = 16  # at least V, so that any logits can be had from some hidden states


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_s_loss_and_gradients_are_those_of_stored_logits(name: str) -> None:
    """Catches a plan cut at the wrong rows, statistics of a chunk, a normaliser counted twice."""
    recipe, rollout = recipes.get(name, entropy_coef=0.003), make_rollout()
    weight = torch.randn(V, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    hidden = make_logits() @ torch.linalg.pinv(weight).T
    tokens, mask = rollout.tokens, rollout.mask

    with torch.no_grad():
        stats = linear_token_stats(hidden, weight, tokens, mask=mask, extras=True, chunk_tokens=3)
    rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
    targets = recipe.targets(rollout)
    prepared = Prepared(rollout, targets, recipe.prepare(stats, rollout, targets))

    def token_loss(stats: TokenStats, rows: slice) -> Tensor:
        sequences = slice(rows.start // T, rows.stop // T)
        part = Prepared(*(x.rows(sequences) for x in prepared))
        stats = TokenStats(*(None if x is None else x.view(-1, T) for x in stats))
        share = part.plan.aggregate(recipe.token_loss(stats, *part).loss)
        return share.expand(rows.stop - rows.start) / (rows.stop - rows.start)

    leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
    total, _ = linear_token_loss(
        *leaves, tokens, token_loss, mask=mask, chunk_tokens=2 * T + 1, align=T, extras=True
    )
    total.backward()
    whole = [x.clone().requires_grad_() for x in (hidden, weight)]
    expected = loss(recipe, whole[0] @ whole[1].T, prepared)
    expected.backward()
    torch.testing.assert_close(total, expected.detach(), rtol=0, atol=1e-12)
    for ours, truth in zip(leaves, whole, strict=True):
        torch.testing.assert_close(ours.grad, truth.grad, rtol=0, atol=1e-11)
    assert whole[1].grad.abs().max() > 1e-4
