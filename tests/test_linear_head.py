"""The chunked head against token_stats on the whole logits, and its gradients against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from entropy_ext import TokenStats, linear_token_loss, linear_token_stats, ops_linear, token_stats
from tests.linear_heads import (
    D,
    T,
    V,
    assert_close,
    by_loss,
    chunked,
    draw,
    upstream,
    upstream_loss,
    whole,
)


@pytest.mark.parametrize("chunk", [1, 4, 7, 21, None])
def test_float64_equals_the_whole_at_any_chunk_size(
    device: torch.device, chunk: int | None
) -> None:
    """Catches rows that end up in the wrong place and gradients that miss a chunk or a mask."""
    arguments = draw(torch.float64, device)
    stats, grads = chunked(arguments, chunk, extras=True)
    truth, true_grads = whole(arguments, extras=True)
    assert_close(list(stats[:7]), list(truth[:7]), 1e-13)
    assert_close(grads, true_grads, 1e-12)
    assert grads[0][~arguments["mask"]].eq(0).all()

    loss, loss_stats, loss_grads = by_loss(arguments, chunk)
    assert_close(list(loss_stats[:3]), list(truth[:3]), 1e-13)
    assert_close(loss_grads, true_grads, 1e-12)
    expected = sum((x * g).sum() for x, g in zip(truth[:3], upstream(truth), strict=True))
    assert_close([loss.detach()], [expected.detach()], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("run", [chunked, by_loss], ids=["stats", "loss"])
def test_no_worse_than_the_whole_in_the_same_precision(
    device: torch.device, dtype: torch.dtype, run: Any
) -> None:
    """Catches a sum over chunks in half precision: the error would grow with their number."""
    arguments = draw(dtype, device)
    *_, grads = run(arguments, 2)
    _, true_grads = whole(arguments, torch.float64)
    _, plain_grads = whole(arguments)
    for ours, plain, truth in zip(grads, plain_grads, true_grads, strict=True):
        size = float(truth.abs().max())
        error = float((ours.double() - truth).abs().max())
        plain_error = float((plain.double() - truth).abs().max())
        # Both round the gradient once at the end; ours also each chunk's share of it.
        assert error <= 1.5 * plain_error + torch.finfo(dtype).eps / 2 * size


def test_upstream_gradient_of_the_loss_scales_all(device: torch.device) -> None:
    """Catches gradients formed in the forward pass that ignore what comes from above."""
    arguments = draw(torch.float64, device)
    _, _, once = by_loss(arguments, 5)
    _, _, thrice = by_loss(arguments, 5, scale=-3.0)
    assert_close(thrice, [-3.0 * g for g in once], 1e-15)


def test_gradients_are_handed_out_once(device: torch.device) -> None:
    """Catches a second backward pass that would return gradients already scaled."""
    arguments = draw(torch.float64, device)
    arguments["weight"].requires_grad_()
    loss, _ = linear_token_loss(**arguments, token_loss=lambda s, rows: s.logp)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward was called before"):
        loss.backward()


@pytest.mark.parametrize(
    "frozen",
    [
        {"hidden"},
        {"weight"},
        {"bias"},
        {"hidden", "weight"},
        {"weight", "bias"},
        {"hidden", "bias"},
    ],
    ids=lambda names: "-".join(sorted(names)),
)
def test_frozen_inputs_receive_nothing(device: torch.device, frozen: set[str]) -> None:
    """Catches a gradient for a frozen tensor, or one that is lost because another is frozen."""
    arguments = draw(torch.float64, device)
    _, truth = whole(arguments)
    names = ("hidden", "weight", "bias")
    for run in ("stats", "loss"):
        leaves = {n: arguments[n].clone().requires_grad_(n not in frozen) for n in names}
        if run == "stats":
            stats = linear_token_stats(**(arguments | leaves), chunk_tokens=4)
            torch.autograd.backward(tuple(stats[:3]), upstream(stats))
        else:
            loss, _ = linear_token_loss(
                **(arguments | leaves), token_loss=upstream_loss(arguments), chunk_tokens=4
            )
            loss.backward()
        for name, expected in zip(names, truth, strict=True):
            grad = leaves[name].grad
            assert (grad is None) == (name in frozen)
            if grad is not None:
                assert_close([grad], [expected], 1e-12)


def test_without_bias_and_without_gradient(device: torch.device) -> None:
    """Catches a bias that is assumed, and gradients that are formed under no_grad."""
    arguments = draw(torch.float64, device) | {"bias": None, "mask": None}
    arguments["hidden"] = arguments["hidden"].nan_to_num(0.5).requires_grad_()
    with torch.no_grad():
        stats = linear_token_stats(**arguments, chunk_tokens=4)
        loss, _ = linear_token_loss(**arguments, token_loss=lambda s, rows: -s.logp, chunk_tokens=4)
    logits = arguments["hidden"].detach() @ arguments["weight"].T
    truth = token_stats(logits, arguments["tokens"], temperature=arguments["temperature"])
    assert_close(list(stats[:3]), list(truth[:3]), 1e-13)
    torch.testing.assert_close(loss, -truth.logp.sum(), rtol=1e-12, atol=0)
    assert not stats.logp.requires_grad
    assert not loss.requires_grad


def test_chunks_end_where_sequences_end(device: torch.device) -> None:
    """Catches chunks that split a sequence although the loss looks at whole ones."""
    arguments = draw(torch.float64, device)
    seen: list[slice] = []

    def token_loss(stats: TokenStats, rows: slice) -> Tensor:
        seen.append(rows)
        return (stats.logp.view(-1, T).mean(-1, keepdim=True) * stats.entropy.view(-1, T)).flatten()

    linear_token_loss(**arguments, token_loss=token_loss, chunk_tokens=10, align=T)
    assert seen == [slice(0, 7), slice(7, 14), slice(14, 21)]


def test_another_tensor_with_a_gradient_is_refused(device: torch.device) -> None:
    """Catches a learnable temperature or value head whose gradient would silently be lost."""
    arguments = draw(torch.float64, device)
    head = torch.ones((), dtype=torch.float64, device=device, requires_grad=True)
    arguments["weight"].requires_grad_()
    with pytest.raises(ValueError, match="token_loss: expected a loss of stats alone"):
        linear_token_loss(**arguments, token_loss=lambda s, rows: s.logp * (2 * head))
    loss, _ = linear_token_loss(**arguments, token_loss=lambda s, rows: s.logp * head.detach())
    loss.backward()
    assert arguments["weight"].grad is not None


def test_a_loss_of_constants_has_gradient_zero(device: torch.device) -> None:
    """Catches an error, or a gradient left over, where every token of a chunk is masked out."""
    arguments = draw(torch.float64, device)
    arguments["weight"].requires_grad_()
    loss, _ = linear_token_loss(
        **arguments, token_loss=lambda s, rows: torch.zeros_like(s.logp), chunk_tokens=4
    )
    loss.backward()
    assert arguments["weight"].grad.eq(0).all()


def test_gradcheck() -> None:
    """Catches a gradient that differs from finite differences."""
    arguments = draw(torch.float64, torch.device("cpu"))
    keep = arguments["mask"]
    hidden = arguments["hidden"][keep][:6].requires_grad_()
    weight, bias = arguments["weight"][:9].requires_grad_(), arguments["bias"][:9].requires_grad_()
    tokens = arguments["tokens"][keep][:6] % 9

    def run(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return tuple(linear_token_stats(hidden, weight, tokens, bias=bias, chunk_tokens=4)[:3])

    assert torch.autograd.gradcheck(run, (hidden, weight, bias))


def test_opcheck() -> None:
    """Catches a fake operator that promises other shapes, and aliasing of outputs."""
    a = draw(torch.float32, torch.device("cpu"))
    arguments = (
        a["hidden"].nan_to_num(0.0).requires_grad_(),
        a["weight"].requires_grad_(),
        a["bias"].requires_grad_(),
        *(a["tokens"], a["temperature"], a["mask"]),
    )
    torch.library.opcheck(ops_linear.linear_token_stats_forward, (*arguments, True, 4))
    torch.library.opcheck(
        ops_linear.linear_token_stats_forward, (*arguments[:2], None, *arguments[3:], False, 4)
    )


def test_compiles_without_a_graph_break() -> None:
    """Catches code between the operators that torch.compile cannot trace."""
    arguments = draw(torch.float32, torch.device("cpu"))
    arguments["hidden"] = arguments["hidden"].nan_to_num(0.0)
    weight = arguments.pop("weight")

    def loss(weight: Tensor) -> Tensor:
        stats = linear_token_stats(weight=weight, **arguments, chunk_tokens=4)
        return (stats.logp - 0.1 * stats.entropy).sum()

    ours, eager = (weight.clone().requires_grad_() for _ in range(2))
    torch.compiler.reset()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(ours).backward()
    loss(eager).backward()
    torch.testing.assert_close(ours.grad, eager.grad, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [65536.0, torch.tensor(1024.0)])
def test_grad_scale_keeps_small_gradients(scale: float | Tensor, device: torch.device) -> None:
    """Catches float16 gradients that vanish before the scale of the loss could save them."""
    arguments = draw(torch.float16, device)
    arguments["weight"].requires_grad_()

    def token_loss(stats: TokenStats, rows: slice) -> Tensor:
        return -1e-6 * stats.logp

    loss, _ = linear_token_loss(
        **arguments, token_loss=token_loss, chunk_tokens=4, grad_scale=scale
    )
    (loss * scale).backward()
    ours = arguments["weight"].grad.double() / scale
    wide = {k: v.detach().double() if v.is_floating_point() else v for k, v in arguments.items()}
    wide["weight"].requires_grad_()
    linear_token_loss(**wide, token_loss=token_loss)[0].backward()
    truth = wide["weight"].grad
    assert (ours - truth).abs().max() <= 3e-3 * truth.abs().max()


def test_upstream_gradient_is_not_rounded_to_half_precision(device: torch.device) -> None:
    """Catches a factor of 1/3 that becomes 0.334 in bfloat16, and all gradients with it."""
    arguments = draw(torch.bfloat16, device)
    _, _, once = by_loss(arguments, 21)
    _, _, third = by_loss(arguments, 21, scale=1 / 3)
    for a, b in zip(third, once, strict=True):
        assert torch.equal(a, (b.float() * torch.tensor(1 / 3)).bfloat16())


def test_empty_batch(device: torch.device) -> None:
    """Catches a division by the number of chunks."""
    weight = torch.zeros(V, D, device=device, requires_grad=True)
    hidden = torch.zeros(0, D, device=device, requires_grad=True)
    tokens = torch.zeros(0, dtype=torch.int64, device=device)
    stats = linear_token_stats(hidden, weight, tokens)
    stats.logp.sum().backward()
    assert weight.grad.eq(0).all()
    loss, _ = linear_token_loss(hidden, weight, tokens, lambda s, rows: s.logp)
    loss.backward()
    assert loss.detach().eq(0)
