"""Prompts of graded difficulty that share parameters: they interfere, and they generalise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sim.lab.draws import normals
from sim.lab.exact import Policy
from sim.lab.task import Task
from sim.lab.tree import Tree, grow

__all__ = ["prompt_set"]

TRUTH, PRIOR, FEATURES = 0, 1, 2
"""streams of random numbers"""
CANDIDATES = 32
"""prompts drawn for each one that is taken"""


def prompt_set(
    seeds: Sequence[int],
    *,
    prompts: int = 8,
    held_out: int = 8,
    features: int = 12,
    vocab: int = 4,
    max_length: int = 3,
    right: int = 4,
    knowledge: float = 0.5,
    spread: float = 2.0,
    easiest: float = 0.8,
    hardest: float = 0.01,
    end: bool = False,
) -> Task:
    """A log-linear policy over features of the prompt, and prompts from easy to hard.

    A true table W* says which responses to a prompt of features x are right: the `right` likeliest
    under the logits W*·x. Training starts from knowledge·W* + noise. Of many random prompts those
    are taken whose chance of a right response at the start is nearest to a grid, geometric in the
    odds from easiest to hardest; a second set on the same grid is held out, which training never
    sees but which shares the parameters. The teacher writes each right response equally often.

    Args:
        seeds: N seeds.
        prompts: how many to train on.
        held_out: how many not.
        features: F, fewer than prompts where they are to interfere.
        vocab: V.
        max_length: T.
        right: right responses to each prompt.
        knowledge: share of the truth in the start.
        spread: standard deviation of the logits at the start.
        easiest: chance of a right response at the start on the first prompt, about.
        hardest: the same on the last.
        end: token 0 ends a response; see `tree.grow`.
    """
    if not 0 < hardest <= easiest < 1:
        raise ValueError(
            f"easiest, hardest: expected 0 < hardest ≤ easiest < 1, got {easiest, hardest}"
        )
    tree = grow(vocab, max_length, end=end)
    numbers = torch.tensor(seeds)
    # Features of length 1 in all give logits of unit variance from a table of unit variance.
    x = normals(numbers, FEATURES, shape=((prompts + held_out) * CANDIDATES, features))
    x = x / x.norm(dim=-1, keepdim=True)
    table = (features, tree.size, vocab)
    truth = normals(numbers, TRUTH, shape=table)
    noise = normals(numbers, PRIOR, shape=table)
    start = spread * (knowledge * truth + (1 - knowledge**2) ** 0.5 * noise)

    correct = _likeliest(tree, torch.einsum("npf,nfsv->npsv", x, truth), right)
    policy = Policy.of(tree, torch.einsum("npf,nfsv->npsv", x, start))
    odds = policy.mean(correct.double()).logit()
    seen, unseen = odds.split([prompts * CANDIDATES, held_out * CANDIDATES], -1)
    taken = torch.cat(
        [
            _nearest(seen, easiest, hardest, prompts),
            prompts * CANDIDATES + _nearest(unseen, easiest, hardest, held_out),
        ],
        -1,
    )
    chosen = correct.gather(1, taken[..., None].expand(-1, -1, tree.responses))
    return Task(
        name="prompt_set",
        tree=tree,
        seeds=numbers,
        start=start,
        features=x.gather(1, taken[..., None].expand(-1, -1, features)),
        correct=chosen,
        # All right responses give one answer, and so do those wrong ones that end alike.
        answers=torch.where(chosen, vocab, _last_tokens(tree)),
        teacher=chosen.double() / chosen.sum(-1, keepdim=True),
        training=prompts,
    )


def _likeliest(tree: Tree, logits: Tensor, count: int) -> Tensor:
    """[N, P, L] bool: the `count` likeliest responses, truncated ones left out."""
    logp = torch.where(tree.truncated, -torch.inf, Policy.of(tree, logits).response_logp)
    best = logp.topk(count, dim=-1).indices
    return torch.zeros_like(logp, dtype=torch.bool).scatter(-1, best, True)


def _last_tokens(tree: Tree) -> Tensor:
    """[L]: the last token that says something, −1 if truncated; 0 for nothing but an end."""
    last = tree.mask.sum(-1, keepdim=True) - 1
    if tree.end:
        last = (last - 1).clamp(min=0)
    return torch.where(tree.truncated, -1, tree.tokens.gather(1, last)[:, 0])


def _nearest(odds: Tensor, easiest: float, hardest: float, count: int) -> Tensor:
    """[N, count]: positions whose odds come nearest to the grid, none twice."""
    ends = torch.tensor([easiest, hardest], dtype=torch.float64).logit()
    picked: list[Tensor] = []
    for level in torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64):
        distance = (odds - level).abs()
        for before in picked:
            distance = distance.scatter(-1, before, torch.inf)
        picked.append(distance.argmin(-1, keepdim=True))
    return torch.cat(picked, -1) if picked else torch.empty(len(odds), 0, dtype=torch.int64)
