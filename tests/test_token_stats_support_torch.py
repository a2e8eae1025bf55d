"""token_stats with a support inside PyTorch: errors, registration, gradcheck, compile, fakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext import Support, token_stats
from tests import draws
from tests.test_support import MALFORMED
from tests.truth import same_bits, stats_dtype

forward_op = torch.ops.entropy_ext.token_stats_forward.default
backward_op = torch.ops.entropy_ext.token_stats_backward.default
LISTS = [[0, 4, 9], [], [32], [1, 2, 3], [5], [0, 31]]


def restricted_sum(logits: Tensor, support: Support, **options: Any) -> Tensor:
    """Of support_logp and support_entropy, and of logp, at token 1 of every row."""
    tokens = torch.ones(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    stats = token_stats(logits, tokens, support=support, **options)
    return (stats.support_logp + 0.5 * stats.support_entropy - 0.25 * stats.logp).sum()


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed(what: str, device: torch.device) -> None:
    """An error on the CPU, NaN in that row on CUDA: catches a read, and a write, out of bounds."""
    offsets, ids, message = MALFORMED[what]
    support = Support(torch.tensor(offsets), torch.tensor(ids, dtype=torch.int32)).to(device)
    logits = draws.draw_logits("randn", 2, 7, torch.float32).to(device).requires_grad_()
    if device.type == "cpu":
        with pytest.raises(ValueError, match=r"^support\." + message):
            restricted_sum(logits, support)
        return
    tokens = torch.ones(2, dtype=torch.int64, device=device)
    stats = token_stats(logits, tokens, support=support)
    bad = stats.support_logp.isnan()
    assert bad.any()
    assert torch.equal(stats.support_entropy.isnan(), bad)
    stats.support_logp.sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.isnan(), bad[:, None].expand(2, 7))


def test_the_backward_pass_looks_at_the_support_too(device: torch.device) -> None:
    """The operator called by itself with ids out of range: catches a write beside the gradient."""
    if device.type != "cpu":
        pytest.skip("CUDA takes the support to be the one that the forward pass saw")
    logits = draws.draw_logits("randn", 2, 7, torch.float32)
    tokens = torch.zeros(2, dtype=torch.int64)
    good = Support.from_lists([[1], [2]])
    inputs = (logits, tokens, torch.tensor(1.0), None)
    _, entropy, _, row_max, row_sum, _, stats = forward_op(*inputs, False, good.offsets, good.ids)
    grads = [torch.ones(2)] * 3
    bad = torch.tensor([1, 2**30], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"^support.ids\[1\]: expected .* got 1073741824$"):
        backward_op(
            *(*inputs, entropy, row_max, row_sum, *grads, good.offsets, bad, stats),
            torch.ones_like(stats),
        )


def test_wrong_length_and_device(device: torch.device) -> None:
    """Catches rows of another batch, and an address of one device read on the other."""
    logits = torch.zeros(2, 3, 33, device=device)
    support = Support.from_lists(LISTS[:5], device=device)
    with pytest.raises(
        ValueError, match=r"^support.offsets: expected shape \[7\].* 6 rows .*\[6\]"
    ):
        restricted_sum(logits, support)
    with pytest.raises((ValueError, RuntimeError), match="meta"):
        restricted_sum(logits, Support.from_lists(LISTS).to("meta"))
    with pytest.raises(TypeError, match=r"^support: expected a Support, got list"):
        restricted_sum(logits, LISTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_opcheck(dtype: torch.dtype, device: torch.device) -> None:
    """Catches a schema that lies about aliasing, and a fake of the wrong shape, dtype or stride."""
    logits = draws.draw_logits("peaked", 6, 33, dtype).view(2, 3, 33).to(device)
    tokens = logits.argmin(-1)
    each = draws.cycled_temperatures(6, dtype).view(2, 3).to(device)
    mask = torch.tensor([[True, False, True], [True, True, False]], device=device)
    scalar = torch.tensor(0.6, dtype=stats_dtype(dtype), device=device)
    whole = Support.from_lists(LISTS, device=device)
    # An operator may not return an input: the fifth row of the first case has nothing to write.
    for z, t, tau, m, extras, support in (
        (logits, tokens, scalar, None, False, whole),
        (logits, tokens, each, mask, True, whole),
        (logits[:, :-1], tokens[:, :-1], each[:, :-1], None, True, whole.rows(slice(4))),
        (logits[0, 0], tokens[0, 0], scalar, None, False, whole.rows(slice(1))),
        (logits[:0], tokens[:0], scalar, mask[:0], False, whole.rows(slice(0))),
    ):
        rows = (z, t, tau, m)
        leaf = z.detach().clone().requires_grad_()
        csr = (support.offsets, support.ids)
        torch.library.opcheck(forward_op, (leaf, *rows[1:], extras, *csr))
        _, entropy, _, row_max, row_sum, _, stats = forward_op(*rows, extras, *csr)
        upstream = [torch.randn_like(entropy) for _ in range(3)]
        torch.library.opcheck(
            backward_op,
            (*rows, entropy, row_max, row_sum, *upstream, *csr, stats, torch.randn_like(stats)),
        )


@pytest.mark.isa
@pytest.mark.parametrize("kind", ["randn", "peaked", "flat"])
def test_gradcheck(kind: str, device: torch.device) -> None:
    """Finite differences of all five outputs, with a mask and a temperature for each token."""
    scale = 0.2 if kind == "peaked" else 1.0  # steep beyond that for a step of 1e-6
    logits = draws.draw_logits(kind, 6, 33, torch.float64).to(device) * scale
    logits.requires_grad_()
    tokens = draws.draw_tokens(logits.detach().cpu()).to(device)
    temperature = draws.cycled_temperatures(6, torch.float64).to(device)
    mask = torch.tensor([True, True, False, True, True, True], device=device)
    support = Support.from_lists(LISTS, device=device)

    def function(z: Tensor) -> tuple[Tensor, ...]:
        stats = token_stats(z, tokens, temperature=temperature, mask=mask, support=support)
        return tuple(x for x in stats if x is not None)

    assert len(function(logits)) == 5
    torch.autograd.gradcheck(function, logits, check_undefined_grad=True, check_batched_grad=False)


def test_double_backward_raises(device: torch.device) -> None:
    """Catches second derivatives that are silently zero."""
    logits = draws.draw_logits("randn", 6, 33, torch.float64).to(device).requires_grad_()
    loss = restricted_sum(logits, Support.from_lists(LISTS, device=device))
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        gradient.square().sum().backward()


def test_a_support_changed_in_place_before_the_backward_pass_is_refused(
    device: torch.device,
) -> None:
    """Catches ids that the version counter does not guard: gradients written to other columns."""
    logits = draws.draw_logits("randn", 6, 33, torch.float32).to(device).requires_grad_()
    support = Support.from_lists(LISTS, device=device)
    loss = restricted_sum(logits, support)
    support.ids.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", ["support_logp", "support_entropy", "logp"])
def test_absent_upstream_gradients_count_as_zero(name: str, device: torch.device) -> None:
    """A loss of one output: catches uninitialised memory read for the others."""
    logits = draws.draw_logits("peaked", 6, 33, torch.float32).to(device).requires_grad_()
    tokens = draws.draw_tokens(logits.detach().cpu()).to(device)
    support = Support.from_lists(LISTS, device=device)
    fields = ("logp", "support_logp", "support_entropy")
    gradients = []
    for used in ((name,), fields):
        stats = token_stats(logits, tokens, support=support)
        loss = sum(getattr(stats, x).sum() * (x == name) for x in used)
        gradients.append(torch.autograd.grad(loss, logits)[0])
    assert gradients[0].abs().max() > 0.1
    assert torch.equal(*gradients)


def test_compile(device: torch.device) -> None:
    """One graph, forward and backward, for supports and batches of any size, equal to eager."""
    counter = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    compiled = torch.compile(restricted_sum, fullgraph=True, backend=counter, dynamic=True)
    for rows, temperature in ((4, 0.6), (5, 1.0), (6, 1.7)):
        logits = draws.draw_logits("peaked", rows, 2053, torch.float32).to(device)
        support = Support.from_lists(LISTS[:rows], device=device)
        results = []
        for function in (compiled, restricted_sum):
            leaf = logits.clone().requires_grad_()
            value = function(leaf, support, temperature=temperature)
            results.append((value.detach(), *torch.autograd.grad(value, leaf)))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_fake_tensors(dtype: torch.dtype, device: torch.device) -> None:
    """Shapes, dtypes and devices without a kernel: catches a host sync in the path of training."""
    real = Support.from_lists(LISTS, device=device)

    def described(support: Support) -> list[tuple[Any, ...]]:
        logits = torch.zeros(2, 3, 33, dtype=dtype, device=device, requires_grad=True)
        tokens = torch.zeros(2, 3, dtype=torch.int64, device=device)
        stats = token_stats(logits, tokens, support=support)
        (gradient,) = torch.autograd.grad(stats.support_logp.sum(), logits)
        given = (*(x for x in stats if x is not None), gradient)
        return [(x.shape, x.dtype, x.device, x.stride()) for x in given]

    with FakeTensorMode() as mode:
        fake = Support(mode.from_tensor(real.offsets), mode.from_tensor(real.ids))
        got = described(fake)
        with pytest.raises(ValueError, match=r"^support.offsets: expected shape \[4\]"):
            restricted_sum(torch.zeros(3, 33, device=device), fake)
    assert got == described(real)


def test_strides_of_the_batch(device: torch.device) -> None:
    """[B, T − 1, V] cut from [B, T, V], and strided offsets and ids: catches flat row numbers."""
    base = draws.draw_logits("randn", 8, 33, torch.float32).to(device).view(2, 4, 33)
    support = Support.from_lists(LISTS, device=device)
    wide = Support(
        torch.stack([support.offsets, support.offsets], dim=1)[:, 0],
        torch.stack([support.ids, support.ids], dim=1)[:, 0],
    )
    tokens = torch.ones(2, 3, dtype=torch.int64, device=device)
    dense = token_stats(base[:, :-1].contiguous(), tokens, support=support)
    strided = token_stats(base[:, :-1], tokens, support=wide)
    assert strided.support_logp.shape == (2, 3)
    assert same_bits(dense.support_logp, strided.support_logp)
    assert same_bits(dense.support_entropy, strided.support_entropy)
