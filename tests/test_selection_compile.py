"""The token functions under torch.compile and in CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from entropy_ext import clip_cov, kl_cov, steer_weights
from tests.selection_calls import Seed, all_of_policy_stats, everything, same, valid_batch


def compiled_and_eager(
    function: Callable[..., Any], calls: list[tuple[Any, ...]], graphs: int = 1
) -> None:
    """The same bits from one graph, or as many as are due."""
    counter = CompileCounter()
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for arguments in calls:
        for a, b in zip(compiled(*arguments), function(*arguments), strict=True):
            assert (a is None) == (b is None)
            assert a is None or same(a, b)
    assert counter.frame_count == graphs


@pytest.mark.parametrize("kind", ["int", "tensor"])
def test_compile_when_the_seed_changes(kind: str, device: torch.device) -> None:
    """One graph for all seeds, negative and large ones too: catches a seed baked into it."""
    batch = valid_batch(device)
    seeds: list[Seed] = [3, 2, 12345678901, -7, 2**62]
    if kind == "tensor":
        seeds = [torch.tensor(seed, device=device) for seed in seeds]
    drawn = [everything(batch, seed)[1].tolist() for seed in seeds]
    assert len({str(d) for d in drawn}) == len(seeds)
    # The first int is taken for a constant; from the second on it is an input.
    calls = [(batch, seed) for seed in seeds]
    compiled_and_eager(everything, calls, graphs=2 if kind == "int" else 1)


def test_compile_when_the_numbers_change(device: torch.device) -> None:
    """No break of the graph once they are inputs: catches a check of them that is not traced."""
    b = valid_batch(device)

    def choose(fraction: float, high: float, weight: float) -> tuple[Tensor, ...]:
        ours = (b.logp, b.old_logp, b.entropy, b.advantages, b.mask)
        return (
            kl_cov(b.advantages, b.mask, fraction=fraction),
            clip_cov(b.advantages, b.mask, fraction=fraction, bounds=(-1.0, high), seed=0),
            steer_weights(*ours, lambda_min=weight, floor=fraction, weight_scale=high),
        )

    torch.compiler.reset()
    compiled = torch.compile(choose, fullgraph=True, backend="eager")
    for numbers in ((0.1, 2.0, 0.5), (0.2, 3.0, 0.6), (0.3, 4.0, 0.7)):
        for x, y in zip(compiled(*numbers), choose(*numbers), strict=True):
            assert same(x, y)


def test_seed_as_int_and_as_tensor(device: torch.device) -> None:
    """The same choice by either."""
    batch = valid_batch(device)
    for seed in (0, 5, -1, 2**63 - 1, -(2**63)):
        a = everything(batch, seed)[1]
        b = everything(batch, torch.tensor(seed, device=device))[1]
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", ["code", "exact"])
def test_compile_policy_stats(form: str, device: torch.device) -> None:
    """One graph, the selection that of eager mode and the gradient too."""
    batch = valid_batch(device)
    random = torch.Generator().manual_seed(0)
    leaf = torch.randn(4, 9, 33, generator=random).to(device).requires_grad_()
    tokens = torch.zeros(4, 9, dtype=torch.int64, device=device)

    def step(logits: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        stats = all_of_policy_stats(logits * 1.5, tokens, batch, seed, form)
        ratio = (stats.logp - stats.logp.detach()).exp()
        weight = torch.where(stats.clip_cov, 0.0, stats.steer_weight)
        loss = (weight * ratio).sum() + stats.entropy.sum() + stats.lse.sum()
        return loss, stats.covariance, stats.clip_cov, stats.steer_weight

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for seed in (torch.tensor(4, device=device), torch.tensor(5, device=device)):
        got, expected = compiled(leaf, seed), step(leaf, seed)
        assert expected[2].any()
        for x, y in zip(got[1:], expected[1:], strict=True):
            assert same(x, y)
        gradients = [torch.autograd.grad(results[0], leaf)[0] for results in (got, expected)]
        assert gradients[0].abs().max() > 0
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def test_cuda_graph_with_other_seeds(device: torch.device) -> None:
    """Captured once and replayed: catches a launch that depends on a value, and a copied seed.

    The rows are few and long, so that several blocks share each by way of scratch memory.
    """
    if device.type != "cuda":
        pytest.skip("only CUDA has graphs to capture")
    batch = valid_batch(device)
    logits = torch.randn(4, 9, 50257, device=device)
    tokens = torch.zeros(4, 9, dtype=torch.int64, device=device)

    def run(seed: Seed) -> list[Tensor]:
        stats = all_of_policy_stats(logits, tokens, batch, seed, "exact")
        return [*everything(batch, seed), *(x for x in stats if x is not None)]

    seed = torch.tensor(1, device=device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(seed)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(seed)
    for value in (1, 9, -4):
        seed.fill_(value)
        logits.normal_()
        graph.replay()
        for a, b in zip(captured, run(value), strict=True):
            assert same(a, b)
