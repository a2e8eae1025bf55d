"""Token trees: responses of several tokens, their end checked, several of them right."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sim.lab.draws import normals, uniforms
from sim.lab.exact import Policy
from sim.lab.task import Task
from sim.lab.tree import grow

__all__ = ["token_tree"]

START, ANSWERS, FORKS, RIGHT = 0, 1, 2, 3
"""streams of random numbers"""


def token_tree(
    seeds: Sequence[int],
    *,
    prompts: int = 8,
    vocab: int = 4,
    max_length: int = 4,
    answers: int = 12,
    spread: float = 1.0,
    forks: float = 0.25,
    fork_spread: float = 0.3,
    success: float | None = None,
    end: bool = False,
    end_bias: float = 0.0,
) -> Task:
    """A table over prefixes for each prompt; every response arrives at one of a few answers.

    Each response has a random answer, and one answer per prompt is right, so that about 1/answers
    of all responses are. A share of the states are forks, whose start is nearly flat; the others
    are as decided as `spread` makes them: entropy sits in a minority of tokens. With success, the
    right answer is the one whose probability at the start is nearest to it. With end, token 0 ends
    a response anywhere, and one of full length without it is truncated: it has no answer.

    Args:
        seeds: N seeds.
        prompts: P.
        vocab: V.
        max_length: T.
        answers: how many answers there are.
        spread: standard deviation of the logits at the start, where it is no fork.
        forks: share of states that are.
        fork_spread: standard deviation of the logits in forks.
        success: wanted chance of a right response at the start, or None: any answer may be right.
        end: responses may end early.
        end_bias: joins the logit of token 0 at the start; below 0, responses are long.
    """
    if answers < 2:
        raise ValueError(f"answers: expected at least 2, got {answers}")
    tree = grow(vocab, max_length, end=end)
    numbers = torch.tensor(seeds)
    table = (prompts, tree.size, vocab)
    flat = uniforms(numbers, FORKS, shape=table[:2]) < forks
    scale = torch.where(flat, fork_spread, spread)[..., None]
    start = scale * normals(numbers, START, shape=table)
    if end:
        start[..., 0] += end_bias
    drawn = uniforms(numbers, ANSWERS, shape=(prompts, tree.responses))
    label = (drawn * answers).long()
    label = torch.where(tree.truncated, -1, label)
    # The answer of a response drawn at random, so that every prompt has a right one.
    whole = int((~tree.truncated).sum())
    drawn = uniforms(numbers, RIGHT, shape=(prompts, 1))
    right = label[..., ~tree.truncated].gather(-1, (drawn * whole).long())
    if success is not None:
        policy = Policy.of(tree, start)
        mass = policy.responses.new_zeros(len(seeds), prompts, answers)
        known = torch.where(label < 0, 0.0, policy.responses)
        mass = mass.scatter_add(-1, label.clamp(min=0), known)
        there = (label[..., None] == torch.arange(answers)).any(-2)
        distance = torch.where(there, (mass - success).abs(), torch.inf)
        right = distance.argmin(-1, keepdim=True)
    correct = label == right
    return Task(
        name="token_tree",
        tree=tree,
        seeds=numbers,
        start=start,
        correct=correct,
        answers=label,
        teacher=correct.double() / correct.sum(-1, keepdim=True),
    )
