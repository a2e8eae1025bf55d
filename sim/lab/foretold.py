"""The entropy change of each token as methods estimate it, and as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from entropy_ext import TokenStats, covariance, entropy_change, steer_weights
from entropy_ext.rl.advantages import group_zscore
from sim.lab.sampler import Samples, table_rows, table_stats
from sim.lab.task import Task

__all__ = ["COVARIANCE", "EXACT", "FORMS", "Foretold", "foretell"]

EXACT, COVARIANCE = "exact", "covariance"
FORMS: dict[str, Literal["code", "own_logit"]] = {"STEER's code": "code", "own logit": "own_logit"}


class Foretold(NamedTuple):
    """Tokens of a batch and what a small step on each does to the entropy in its own state."""

    mask: Tensor
    """[N, B, T] bool: tokens with an advantage"""
    estimates: Mapping[str, Tensor]
    """[N, B, T] each, up to a scale; positive where the entropy is to rise"""
    measured: Tensor
    """[N, B, T]: ΔH, nats"""


def foretell(task: Task, samples: Samples, logits: Tensor, *, eta: float) -> Foretold:
    """Entropy changes by the step eta·ρA(e_a − π) on the logits of each token's state alone.

    Estimates: the Ω of `steer_weights` in the forms FORMS, taken with the sign of −A(ln π + H);
    EXACT, `entropy_change`; COVARIANCE, −(logp − mean)(A − mean). A as `group_zscore` has it.

    Args:
        task: of N seeds.
        samples: of an older policy, or of this one.
        logits: [N, P, S, V] of the policy now.
        eta: size of the step.
    """
    mask, tokens = samples.fields["mask"], samples.fields["tokens"]
    groups = zip(samples.fields["rewards"], samples.prompt, mask, strict=True)
    advantages = torch.stack([group_zscore(*group) for group in groups])
    now = table_stats(
        task, logits, samples.prompt, samples.response, mask, temperature=1.0, extras=True
    )
    ratio = torch.where(mask, now.logp - samples.stats.logp, 0.0).exp()
    rows = table_rows(task, logits, samples.prompt, samples.response)
    score = torch.nn.functional.one_hot(tokens, rows.shape[-1]) - rows.softmax(-1)
    before, after = (
        _entropy(table) for table in (rows, rows + eta * (ratio * advantages)[..., None] * score)
    )
    rises = -(advantages * (now.logp + now.entropy)).sign()
    estimates = {
        name: rises * _size(form, now, samples, advantages) for name, form in FORMS.items()
    }
    estimates[EXACT] = entropy_change(now, advantages, ratio=ratio)
    each = zip(now.logp, advantages, mask, strict=True)
    estimates[COVARIANCE] = -torch.stack([covariance(*one) for one in each])
    return Foretold(mask & (advantages != 0), estimates, after - before)


def _entropy(logits: Tensor) -> Tensor:
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def _size(
    form: Literal["code", "own_logit"], now: TokenStats, samples: Samples, advantages: Tensor
) -> Tensor:
    """|Ω|, read back from the library's weights: with so wide a range none meets a bound."""
    least, widest = 1e-12, 1e4
    weights = steer_weights(
        now.logp,
        samples.stats.logp,
        samples.stats.entropy,
        advantages,
        samples.fields["mask"],
        form=form,
        lambda_min=least,
        weight_scale=widest,
    )
    return weights.clamp(min=least).log() * (widest / math.log(least))
