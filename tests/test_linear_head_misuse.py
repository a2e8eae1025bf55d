"""The chunked head where autograd, precision or tensors without values get in the way."""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from entropy_ext import TokenStats, linear_token_loss, linear_token_stats, token_stats
from tests.linear_heads import D, T, V, assert_close, by_loss, draw, upstream_loss, whole

CPU = torch.device("cpu")


def by_name(name: str, leaves: dict[str, Any], arguments: dict[str, Any]) -> Tensor:
    """The loss whose gradients are `upstream`, by one of the two functions."""
    token_loss = upstream_loss(arguments)
    if name == "loss":
        return linear_token_loss(**(arguments | leaves), token_loss=token_loss, chunk_tokens=4)[0]
    stats = linear_token_stats(**(arguments | leaves), chunk_tokens=4)
    return token_loss(TokenStats(*(x.flatten() for x in stats[:3])), slice(None)).sum()


def leaves_of(arguments: dict[str, Any]) -> dict[str, Tensor]:
    return {n: arguments[n].clone().requires_grad_() for n in ("hidden", "weight", "bias")}


each = pytest.mark.parametrize("name", ["stats", "loss"])


@each
@pytest.mark.parametrize("reentrant", [False, True])
def test_under_activation_checkpointing(name: str, reentrant: bool) -> None:
    """Catches gradients handed out in the first forward pass and missing in the second."""
    arguments = draw(torch.float64, CPU)
    leaves, (_, truth) = leaves_of(arguments), whole(arguments)

    def run(*values: Tensor) -> Tensor:
        return by_name(name, dict(zip(leaves, values, strict=True)), arguments)

    checkpoint(run, *leaves.values(), use_reentrant=reentrant).backward()
    assert_close([leaf.grad for leaf in leaves.values()], truth, 1e-12)


@each
def test_any_layout_and_a_flat_parameter(name: str) -> None:
    """Catches products that read transposed or overlapping memory as if it were contiguous, and a
    weight that is a view of one flat parameter, as in FSDP's first version."""
    arguments = draw(torch.float64, CPU)
    _, truth = whole(arguments)
    leaves = leaves_of(arguments)
    flat = torch.cat([leaves["weight"].detach().flatten(), leaves["bias"].detach()])
    flat.requires_grad_()
    views = {
        "hidden": leaves["hidden"].transpose(0, 1).contiguous().transpose(0, 1),
        "weight": flat[: V * D].view(V, D),
        "bias": flat[V * D :],
    }
    by_name(name, views, arguments).backward()
    assert_close([leaves["hidden"].grad], truth[:1], 1e-12)
    assert_close([flat.grad], [torch.cat([truth[1].flatten(), truth[2]])], 1e-12)

    leaves = leaves_of(arguments)
    views = leaves | {"weight": leaves["weight"].T.contiguous().T}
    by_name(name, views, arguments).backward()
    assert_close([leaf.grad for leaf in leaves.values()], truth, 1e-12)


@each
def test_the_result_used_twice_and_a_weight_used_elsewhere(name: str) -> None:
    """Catches a gradient scaled in place after autograd has added it to another, as for a head
    that shares its weight with the embedding, and one that counts the second use for nothing."""
    arguments = draw(torch.float64, CPU)
    leaves = leaves_of(arguments)
    loss = by_name(name, leaves, arguments) + by_name(name, leaves, arguments)
    (loss + loss + leaves["weight"].square().sum()).backward()
    _, truth = whole(arguments)
    truth = [4 * truth[0], 4 * truth[1] + 2 * arguments["weight"], 4 * truth[2]]
    assert_close([leaf.grad for leaf in leaves.values()], truth, 1e-12)


@each
def test_nothing_counted(name: str) -> None:
    """Catches NaN from the hidden states of a batch whose tokens are all masked."""
    arguments = draw(torch.float32, CPU)
    arguments["mask"] = torch.zeros_like(arguments["mask"])
    leaves = leaves_of(arguments)
    loss = by_name(name, leaves, arguments)
    loss.backward()
    assert loss == 0
    assert all(leaf.grad.eq(0).all() for leaf in leaves.values())


def test_under_autocast() -> None:
    """Catches statistics or gradients in the precision of the region instead of the inputs'."""
    arguments = draw(torch.float32, CPU)
    _, _, expected = by_loss(arguments, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, stats, grads = by_loss(arguments, 4)
    assert loss.dtype == stats.logp.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))
    hidden = arguments["hidden"].bfloat16()
    with pytest.raises(TypeError, match="weight: expected hidden's bfloat16, got float32; cast"):
        linear_token_stats(**(arguments | {"hidden": hidden}))


# The compiler's own, of a tensor that passes from one compiled part to the next.
@pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor:UserWarning")
def test_the_loss_leaves_a_compiled_region() -> None:
    """Catches a loss that is traced, or an answer that differs, inside a compiled function."""
    arguments = draw(torch.float64, CPU)
    leaves, (_, truth) = leaves_of(arguments), whole(arguments)

    token_loss = upstream_loss(arguments)

    def step(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        leaves = {"hidden": hidden, "weight": weight * 2, "bias": bias}
        loss, _ = linear_token_loss(**(arguments | leaves), token_loss=token_loss, chunk_tokens=4)
        return 3 * loss

    half = {**leaves, "weight": (arguments["weight"] / 2).requires_grad_()}
    torch.compiler.reset()
    torch.compile(step, backend="aot_eager")(*half.values()).backward()
    factors = (3, 6, 3)
    expected = [f * g for f, g in zip(factors, truth, strict=True)]
    assert_close([leaf.grad for leaf in half.values()], expected, 1e-12)
    torch.compiler.reset()
    with pytest.raises(Exception, match=r"linear_token_loss runs outside torch\.compile"):
        torch.compile(step, backend="aot_eager", fullgraph=True)(*half.values())


def test_without_values() -> None:
    """Catches a read of values that are not there, a missing gradient, a wrong shape or dtype."""
    seen = []
    with FakeTensorMode():
        hidden = torch.empty(3, 7, D, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(V, D, dtype=torch.bfloat16, requires_grad=True)
        tokens, mask = torch.zeros(3, 7, dtype=torch.int64), torch.ones(3, 7, dtype=torch.bool)

        def token_loss(stats: TokenStats, rows: slice) -> Tensor:
            seen.append((rows, stats.logp.shape, stats.varentropy.dtype))
            return -stats.logp + stats.entropy

        loss, stats = linear_token_loss(
            *(hidden, weight, tokens, token_loss),
            mask=mask,
            chunk_tokens=15,
            align=T,
            extras=True,
        )
        loss.backward()
    assert seen == [
        (slice(0, 14), (14,), torch.float32),
        (slice(14, 21), (7,), torch.float32),
    ]
    assert (loss.shape, stats.logp.shape, loss.dtype) == ((), (3, 7), torch.float32)
    assert (hidden.grad.shape, hidden.grad.dtype) == (hidden.shape, torch.bfloat16)
    assert (weight.grad.shape, weight.grad.dtype) == (weight.shape, torch.bfloat16)


# PyTorch's own, on its first derivative of this kind.
@pytest.mark.filterwarnings(r"ignore:.torch\.jit:DeprecationWarning")
@pytest.mark.parametrize("how", ["dual", "func"])
@pytest.mark.parametrize("name", ["token_stats", "linear_token_stats", "linear_token_loss"])
def test_forward_mode_is_refused(name: str, how: str) -> None:
    """Catches a directional derivative that is silently zero."""
    arguments = draw(torch.float64, CPU)
    logits = torch.randn(3, 7, V, dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        if name == "token_stats":
            return token_stats(x, arguments["tokens"]).logp
        if name == "linear_token_stats":
            return linear_token_stats(**(arguments | {"weight": x})).logp
        return linear_token_loss(**(arguments | {"weight": x}), token_loss=lambda s, rows: s.logp)[
            0
        ]

    at = logits if name == "token_stats" else arguments["weight"]

    def dual() -> None:
        with forward_ad.dual_level():
            run(forward_ad.make_dual(at, at))

    derive = dual if how == "dual" else partial(torch.func.jvp, run, (at,), (at,))
    with pytest.raises(RuntimeError, match=f"{name} has no forward-mode derivative"):
        derive()


@pytest.mark.parametrize("function", [token_stats, linear_token_stats, linear_token_loss])
def test_forward_mode_by_the_temperature_is_refused(function: Any) -> None:
    """Catches a tangent of 0 where the statistics do depend on the temperature."""
    arguments = draw(torch.float32, CPU) | {"token_loss": lambda s, rows: s.logp}
    arguments["logits"] = arguments["hidden"]
    known = inspect.signature(function).parameters.keys()
    given = {name: value for name, value in arguments.items() if name in known}
    given["tokens"] = torch.zeros_like(given["tokens"])
    tau = torch.ones(given["tokens"].shape)
    with pytest.raises(RuntimeError, match=f"{function.__name__} has no forward-mode derivative"):
        torch.func.jvp(lambda x: function(**(given | {"temperature": x})), (tau,), (tau,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_loss": 3}, "token_loss: expected a function, got int"),
        ({"token_loss": lambda s, rows: s.logp > 0}, "token_loss: expected a floating-point loss"),
        ({"token_loss": lambda s, rows: s.logp[:-1]}, "shape [21], got [20]"),
        ({"token_loss": lambda s, rows: s.logp[:, None]}, "shape [21], got [21, 1]"),
        ({"token_loss": lambda s, rows: s.logp.to("meta")}, "token_loss: expected device cpu"),
        ({"grad_scale": 0}, "grad_scale: expected a finite number above 0, got 0"),
        ({"grad_scale": float("inf")}, "grad_scale: expected a finite number above 0, got inf"),
        ({"grad_scale": "1"}, "grad_scale: expected a number or a tensor, got '1'"),
        ({"grad_scale": torch.ones(2)}, "grad_scale: expected a 0-d tensor without gradient"),
        ({"extras": 1}, "extras: expected True or False, got 1"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_cannot_be_a_loss_is_named(change: dict[str, Any], message: str) -> None:
    """Catches a loss on another device that counts as 0, one of integers that has no gradient."""
    arguments = draw(torch.float32, CPU)
    arguments["token_loss"] = lambda s, rows: s.logp
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        linear_token_loss(**(arguments | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_same_bits_at_any_chunk_size(dtype: torch.dtype, device: torch.device) -> None:
    """Where the matrix product gives a row the same logits at any height, as here, where they are
    small whole numbers. Catches statistics of a row that depend on its neighbours in the chunk."""
    generator = torch.Generator().manual_seed(1)

    def whole_numbers(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=generator).to(dtype).to(device)

    hidden, weight = whole_numbers(23, 40), whole_numbers(20011, 40)
    tokens = torch.randint(20011, (23,), generator=generator).to(device)
    truth = token_stats(hidden @ weight.T, tokens, temperature=0.7, extras=True)
    for chunk in (1, 2, 7, 22, 23, 1000):
        stats = linear_token_stats(
            *(hidden, weight, tokens), temperature=0.7, chunk_tokens=chunk, extras=True
        )
        assert all(torch.equal(a, b) for a, b in zip(stats[:7], truth[:7], strict=True))
