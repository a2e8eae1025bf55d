"""What each rank does with its tokens; the tests do the same with all of them at once."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import entropy_ext
from entropy_ext import reference
from tests import draws
from tests.selection import Batch, draw_batch

APIS: dict[str, ModuleType] = {"kernels": entropy_ext, "reference": reference}
SEED = 11
TOKENS = 1501
EDGES = ("fine", "ties", "no candidate", "one valid token", "nothing valid")


class Job(NamedTuple):
    """The tokens of one step, over some ranks."""

    world: int
    split: str
    api: str = "kernels"
    edge: str = "fine"
    dtype: torch.dtype = torch.float32


# How much of a random order of the tokens each rank holds.
SPLITS: dict[str, dict[int, tuple[float, ...]]] = {
    "even": {2: (1, 1), 3: (1, 1, 1), 4: (1, 1, 1, 1)},
    "uneven": {2: (1, 200), 3: (30, 1, 5), 4: (1, 700, 3, 40)},
    "empty": {2: (0, 1), 3: (1, 0, 0), 4: (0, 1, 0, 1)},
}
JOBS = [
    *(Job(world, split) for split in SPLITS for world in (2, 3, 4)),
    *(Job(world, "uneven", api="reference") for world in (2, 3, 4)),
    *(Job(world, "uneven", edge="ties") for world in (2, 3, 4)),
    *(Job(world, "empty", edge=edge) for world, edge in zip((2, 3, 4), EDGES[2:], strict=True)),
    Job(3, "uneven", dtype=torch.float64),
    Job(4, "even", edge="ties", dtype=torch.float64),
]


def positions(world: int, split: str) -> list[Tensor]:
    """Flat positions of each rank's tokens, in an order of its own."""
    order = torch.randperm(TOKENS, generator=draws.generator(world, split))
    weights = SPLITS[split][world]
    ends = [round(TOKENS * sum(weights[: i + 1]) / sum(weights)) for i in range(world)]
    return [order[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def edge_case(edge: str, dtype: torch.dtype) -> Batch:
    """All tokens of the step."""
    batch = draw_batch("ranks", (TOKENS,), dtype)
    if edge == "ties":
        rounded = (batch.advantages * 2).round() / 2
        return batch._replace(advantages=rounded, entropy=(batch.entropy * 4).round())
    if edge == "no candidate":
        return batch._replace(advantages=torch.where(batch.mask, 0.25, torch.nan).to(dtype))
    if edge == "one valid token":
        first = int(batch.mask.nonzero()[0])
        return batch._replace(mask=torch.arange(TOKENS) == first)
    if edge == "nothing valid":
        return batch._replace(mask=torch.zeros_like(batch.mask))
    return batch


def select(api: ModuleType, b: Batch, group: Any = None) -> dict[str, Tensor]:
    """Everything that takes a group, on the tokens of one rank or on all of them."""
    moments = api.CovarianceMoments()
    # A rank without tokens makes no update at all.
    for first in range(0, len(b.logp), 400):
        rows = slice(first, first + 400)
        moments.update(b.logp[rows], b.advantages[rows], b.mask[rows])
    if group is not None:
        moments.all_reduce(group)
    cov = api.covariance(b.logp, b.advantages, b.mask, moments=moments)
    clipped = b.advantages > 1.5
    ours = (b.logp, b.old_logp, b.entropy, b.advantages, b.mask)
    extras = {"collision": b.collision, "collision_logp": b.collision_logp}
    shared = {"token_ids": b.token_ids, "group": group}
    numbers = ("count", "mean_logp", "mean_advantages", "var_logp", "var_advantages", "covariance")
    return {
        "moments": torch.stack([getattr(moments, name).cpu() for name in numbers]),
        "covariance": cov,
        "clip_cov": api.clip_cov(
            cov, b.mask, fraction=0.02, bounds=(0.2, 5.0), clipped=clipped, seed=SEED, **shared
        ),
        "clip_cov, all": api.clip_cov(
            cov,
            b.mask,
            fraction=1.0,
            bounds=(-math.inf, math.inf),
            seed=torch.tensor(SEED),
            **shared,
        ),
        "kl_cov": api.kl_cov(cov, b.mask, fraction=0.05, **shared),
        "top_entropy": api.top_entropy(b.entropy, b.mask, **shared),
        "quantile": api.top_entropy(b.entropy, b.mask, fraction=0.37, rule="quantile", **shared),
        "steer": api.steer_weights(*ours, group=group),
        "steer, exact": api.steer_weights(
            *ours, form="exact", weight_map="linear", lambda_max=1.2, group=group, **extras
        ),
        "steer, given scale": api.steer_weights(*ours, weight_scale=0.7, group=group),
    }


def select_my_tokens(groups: dict[int, Any], rank: int) -> dict[str | int, Any]:
    """The job, as text → what this rank has; the world → what it says of a bad token."""
    results: dict[str | int, Any] = {}
    for job in JOBS:
        if groups[job.world] is not None:
            mine = positions(job.world, job.split)[rank]
            tokens = edge_case(job.edge, job.dtype).taken(mine)
            results[str(job)] = select(APIS[job.api], tokens, groups[job.world])
    for world, group in groups.items():
        if group is not None:
            results[world] = faults(positions(world, "uneven")[rank], group)
    return results


def faults(mine: Tensor, group: Any) -> str:
    """NaN in one rank's valid token: the error there, and the others not left waiting."""
    batch = edge_case("fine", torch.float32)
    bad = int(batch.mask.nonzero()[3])
    batch.entropy[bad] = torch.nan
    tokens = batch.taken(mine)
    said = []
    for call in (
        lambda: entropy_ext.top_entropy(
            tokens.entropy, tokens.mask, token_ids=tokens.token_ids, group=group
        ),
        lambda: entropy_ext.steer_weights(
            tokens.logp,
            tokens.old_logp,
            tokens.entropy,
            tokens.advantages,
            tokens.mask,
            group=group,
        ),
    ):
        try:
            call()
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return "; ".join(said)
