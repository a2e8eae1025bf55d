"""A micro-batch's share of a recipe's loss, from stored logits or a chunk of them at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import LlamaForCausalLM

from entropy_ext import TokenStats, linear_token_loss
from entropy_ext.recipes import Plan, Recipe, Targets
from sim.rlvr.batch import Batch
from sim.rlvr.model import response_hidden, response_stats
from sim.rlvr.scorer import Scorer

__all__ = ["check_chunked_head", "policy_loss"]


def policy_loss(
    model: LlamaForCausalLM,
    recipe: Recipe,
    batch: Batch,
    targets: Targets,
    plan: Plan,
    scorer: Scorer,
    *,
    routing: Tensor | None = None,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """plan.aggregate of the recipe's token_loss, 0-d, and the sums that token_loss reports.

    Gradient flows to the model's parameters. With `scorer.chunked_head` it is formed in the forward
    pass, while the logits of a chunk of whole sequences exist.

    Args:
        model: the policy.
        recipe: whose loss.
        batch, targets, plan: the micro-batch.
        scorer: temperature and head of the run.
        routing: see `response_stats`.
    """
    if scorer.chunked_head:
        return _chunked_loss(model, recipe, batch, targets, plan, scorer, routing)
    stats = response_stats(
        model,
        *batch.texts,
        temperature=scorer.temperature,
        support=batch.support,
        routing=routing,
    )
    loss, metrics = recipe.token_loss(stats, batch.rollout, targets, plan)
    return plan.aggregate(loss), metrics


def check_chunked_head(
    recipe: Recipe, chunked_head: bool, chunk_tokens: int | None, max_length: int
) -> None:
    """Raise ValueError for a recipe or for chunks that the chunked head cannot serve."""
    if chunk_tokens is not None and not chunked_head:
        raise ValueError("chunk_tokens: expected none without chunked_head")
    if chunk_tokens is not None and chunk_tokens < max_length:
        raise ValueError(
            f"chunk_tokens: expected at least max_length, {max_length}, got {chunk_tokens}"
        )
    if chunked_head and "support" in recipe.needs:
        raise ValueError(
            f"chunked_head: recipe {recipe.name} needs support, statistics over the tokens that "
            "the sampler kept, which the chunked head does not form"
        )


def _chunked_loss(
    model: LlamaForCausalLM,
    recipe: Recipe,
    batch: Batch,
    targets: Targets,
    plan: Plan,
    scorer: Scorer,
    routing: Tensor | None,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    rollout, length = batch.rollout, batch.rollout.tokens.shape[1]
    sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(()))

    def token_loss(stats: TokenStats, rows: slice) -> Tensor:
        some = slice(rows.start // length, rows.stop // length)
        share = plan.rows(some)
        shaped = TokenStats._make(None if x is None else x.view(-1, length) for x in stats)
        loss, metrics = recipe.token_loss(shaped, rollout.rows(some), targets.rows(some), share)
        for name, value in metrics.items():
            sums[name] = sums[name] + value
        # The chunk's share is one number, which stands at its first token.
        return pad(share.aggregate(loss)[None], (0, rows.stop - rows.start - 1))

    loss, _ = linear_token_loss(
        *(response_hidden(model, *batch.texts, routing=routing), model.lm_head.weight),
        rollout.tokens,
        token_loss,
        temperature=scorer.temperature,
        mask=rollout.mask,
        chunk_tokens=scorer.chunk_tokens,
        align=length,
    )
    return loss, sums
