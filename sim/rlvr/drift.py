"""How far the trainer's probabilities are from the sampler's, with and without its routing."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from sim.rlvr.batch import Batch
from sim.rlvr.experts import FREE, routes
from sim.rlvr.fields import kept_only
from sim.rlvr.model import response_stats
from sim.rlvr.scorer import Scorer

__all__ = ["routing_drift"]

TAIL = 0.999


def routing_drift(
    model: LlamaForCausalLM, batch: Batch, scorer: Scorer, when: str
) -> dict[str, float]:
    """|ln π/μ| over the tokens that were sampled, π the model and μ the sampler.

    Args:
        model: with experts.
        batch: with the sampler's routing.
        scorer: of the run.
        when: part of the names below, such as "before".

    Returns:
        drift_{when}_free and drift_{when}_kept, means of the model's own routing and of the
        sampler's replayed, nats; the same with _tail, the 99.9 % quantiles, and with _rerouted, the
        means where a layer's choice of expert differs, if it does anywhere; rerouted_{when}, the
        share of these tokens.
    """
    recorded = batch.routing
    assert recorded is not None
    # A token is predicted at the place before it.
    response = slice(recorded.shape[1] - batch.rollout.mask.shape[1], None)
    counted = batch.rollout.mask & (recorded[:, response, 0] != FREE)
    if not counted.any():
        return {}
    free, used = _scored(model, batch, scorer, None)
    kept, _ = _scored(model, batch, scorer, recorded)
    rerouted = (used != recorded)[:, response].any(-1)[counted]
    measures = {f"rerouted_{when}": rerouted.float().mean().item()}
    for how, logp in (("free", free), ("kept", kept)):
        distance = (logp - batch.sampler_logp).abs()[counted]
        measures[f"drift_{when}_{how}"] = distance.mean().item()
        measures[f"drift_{when}_{how}_tail"] = distance.quantile(TAIL).item()
        if rerouted.any():
            measures[f"drift_{when}_{how}_rerouted"] = distance[rerouted].mean().item()
    return measures


@torch.no_grad()
def _scored(
    model: LlamaForCausalLM, batch: Batch, scorer: Scorer, routing: Tensor | None
) -> tuple[Tensor, Tensor]:
    """logp [B, T], and the experts that were used [B, P + T − 1, layers]."""
    parts: list[tuple[Tensor, Tensor]] = []
    for rows in scorer.slices(len(batch)):
        micro = batch.rows(rows)
        stats = response_stats(
            model,
            *micro.texts,
            temperature=scorer.temperature,
            support=micro.support,
            routing=None if routing is None else routing[rows],
            chunked_head=scorer.chunked_head,
            chunk_tokens=scorer.chunk_tokens,
        )
        used = routes(model)
        assert used is not None
        parts.append((kept_only(stats).logp, used))
    logp, used = (torch.cat(values) for values in zip(*parts, strict=True))
    return logp, used
