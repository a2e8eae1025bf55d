"""The gradient written over the logits: same bits, less memory, and never a silent wrong answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.memory import peak_extra_bytes
from entropy_ext import Support, token_stats
from tests import draws

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
STALE = "modified by an inplace operation"


def problem(dtype: torch.dtype, vocab: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    logits = draws.draw_logits("peaked", 5, vocab, dtype)
    logits[1, : vocab // 3] = -torch.inf
    tokens = draws.draw_tokens(logits)
    return logits.to(device), tokens.to(device), torch.tensor([1, 1, 0, 1, 1], device=device).bool()


def gradient(source: Tensor, tokens: Tensor, mask: Tensor, inplace: bool) -> tuple[Tensor, Tensor]:
    """Of a loss of all three outputs, with respect to what the logits were computed from."""
    leaf = source.clone().requires_grad_()
    logits = leaf * 1  # whose own backward pass does not need the logits
    stats = token_stats(
        logits, tokens, temperature=0.7, mask=mask, extras=True, inplace_backward=inplace
    )
    ramp = torch.linspace(-1, 2, len(source), device=source.device).to(stats.logp.dtype)
    torch.autograd.backward(tuple(stats[:3]), (ramp, ramp.flip(0), ramp.square()))
    assert leaf.grad is not None
    return leaf.grad, torch.stack(stats[:7])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 7, 2053, 20000])
def test_same_bits_as_with_memory_of_its_own(
    dtype: torch.dtype, vocab: int, device: torch.device
) -> None:
    """Catches a kernel that reads an entry after it has written it: the token's, a neighbour's."""
    arguments = problem(dtype, vocab, device)
    expected, values = gradient(*arguments, inplace=False)
    ours, our_values = gradient(*arguments, inplace=True)
    assert torch.equal(ours, expected)
    assert torch.equal(our_values.nan_to_num(), values.nan_to_num())


def test_the_gradient_takes_no_memory(device: torch.device) -> None:
    """Catches a copy of the logits, or a fresh gradient, behind the promise."""
    logits, tokens = torch.randn(64, 151936, device=device).requires_grad_(), torch.arange(64)
    z = logits * 1
    stats = token_stats(z, tokens.to(device), inplace_backward=True)
    outputs, grads = (stats.logp, stats.entropy), (torch.ones_like(stats.logp),) * 2
    address = z.data_ptr()

    def backward() -> Tensor:
        return torch.autograd.grad(outputs, z, grads)[0]

    found: list[Tensor] = []
    extra = peak_extra_bytes(lambda: found.append(backward()), device)
    assert extra is None or extra < 2e6
    assert found[0].data_ptr() == address


def test_an_upstream_that_needs_the_logits_is_told(device: torch.device) -> None:
    """Catches silently wrong gradients where the operation before saved its result."""
    leaf = torch.randn(4, 50, device=device, requires_grad=True)
    tokens = torch.arange(4, device=device)
    stats = token_stats(leaf.softmax(-1), tokens, inplace_backward=True)
    with pytest.raises(RuntimeError, match=STALE):
        stats.logp.sum().backward()


def test_a_view_shares_the_version(device: torch.device) -> None:
    """Catches a bump of a view's version that does not reach the tensor it is a view of."""
    leaf = torch.randn(4, 50, device=device, requires_grad=True)
    probabilities = leaf.softmax(-1)
    tokens = torch.zeros(2, 2, dtype=torch.int64, device=device)
    stats = token_stats(probabilities.view(2, 2, 50), tokens, inplace_backward=True)
    with pytest.raises(RuntimeError, match=STALE):
        stats.logp.sum().backward()


@pytest.mark.parametrize("first_inplace", [True, False])
def test_a_second_use_of_the_logits_is_told(first_inplace: bool, device: torch.device) -> None:
    """Catches two losses on the same logits, one reading the gradient of the other."""
    leaf = torch.randn(4, 50, device=device, requires_grad=True)
    logits, tokens = leaf * 1, torch.arange(4, device=device)
    first = token_stats(logits, tokens, inplace_backward=first_inplace)
    second = token_stats(logits, tokens, inplace_backward=True)  # whose backward pass comes first
    with pytest.raises(RuntimeError, match=STALE):
        (first.logp.sum() + second.entropy.sum()).backward()


def test_the_last_use_may_be_in_place(device: torch.device) -> None:
    """Catches a refusal, or a wrong sum, where all others have read the logits before."""
    source = torch.randn(4, 50, device=device)
    tokens = torch.arange(4, device=device)
    grads = []
    for inplace in (False, True):
        leaf = source.clone().requires_grad_()
        logits = leaf * 1
        first = token_stats(logits, tokens, inplace_backward=inplace)
        second = token_stats(logits, tokens)
        (first.logp.sum() + second.entropy.sum()).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0)


def test_a_second_backward_is_told(device: torch.device) -> None:
    """Catches a retained graph that differentiates its own gradient."""
    leaf = torch.randn(4, 50, device=device, requires_grad=True)
    stats = token_stats(leaf * 1, torch.arange(4, device=device), inplace_backward=True)
    stats.logp.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=STALE):
        stats.logp.sum().backward()


def test_a_sum_with_another_gradient_is_right(device: torch.device) -> None:
    """Catches gradients of several consumers added into memory that is still being read."""
    source = torch.randn(6, 300, device=device)
    weight = torch.randn(6, 300, device=device)
    tokens = torch.arange(6, device=device)
    grads = []
    for inplace in (False, True):
        leaf = source.clone().requires_grad_()
        logits = leaf * 1
        loss = token_stats(logits, tokens, inplace_backward=inplace).logp.sum()
        (loss + (logits * weight).sum()).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0)


def test_without_a_gradient_nothing_is_written(device: torch.device) -> None:
    """Catches logits destroyed, or refused, where there is no backward pass to come."""
    logits, tokens = torch.randn(4, 50, device=device), torch.arange(4, device=device)
    kept = logits.clone()
    stats = token_stats(logits, tokens, inplace_backward=True)
    assert torch.equal(stats.logp, token_stats(logits, tokens).logp)
    assert torch.equal(logits, kept)
    assert not stats.logp.requires_grad


def test_refusals() -> None:
    """Catches overwriting what is not ours to overwrite."""
    leaf, tokens = torch.randn(4, 50, requires_grad=True), torch.arange(4)
    with pytest.raises(ValueError, match=r"inplace_backward: .* these are a leaf"):
        token_stats(leaf, tokens, inplace_backward=True)
    for logits in ((leaf * 1)[:, :-1], (leaf[:1] * 1).expand(4, 50)):
        with pytest.raises(ValueError, match="inplace_backward: expected contiguous logits"):
            token_stats(logits, tokens, inplace_backward=True)
    support = Support.from_lists([[1], [2], [3], [4]])
    with pytest.raises(ValueError, match="inplace_backward: expected no support"):
        token_stats(leaf * 1, tokens, support=support, inplace_backward=True)


def test_double_backward_raises() -> None:
    """Catches second derivatives that are silently zero."""
    leaf = torch.randn(4, 50, requires_grad=True)
    stats = token_stats(leaf * 1, torch.arange(4), inplace_backward=True)
    (grad,) = torch.autograd.grad(stats.logp.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_a_view_of_a_leaf_is_refused() -> None:
    """Catches a parameter whose values are overwritten by their own gradient."""
    parameter = torch.nn.Parameter(torch.randn(4, 50))
    tokens = torch.arange(4)
    for logits in (parameter.view(4, 50), parameter[:]):
        with pytest.raises(ValueError, match="a leaf or a view of one"):
            token_stats(logits, tokens, inplace_backward=True)


def test_a_constant_upstream_does_not_hide_the_second_derivative() -> None:
    """Catches a gradient penalty whose own gradient is dropped without a word."""
    leaf = torch.randn(4, 50, requires_grad=True)
    stats = token_stats(leaf * 1, torch.arange(4), inplace_backward=True)
    (grad,) = torch.autograd.grad(stats.logp.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="token_stats has no double backward"):
        (grad.square().sum() + leaf.sum()).backward()


def test_fake_tensors_are_refused() -> None:
    """Catches a crash on tensors that have no memory."""
    with FakeTensorMode():
        logits, tokens = torch.randn(3, 5, requires_grad=True) * 1, torch.zeros(3).long()
        with pytest.raises(ValueError, match="fake or meta"):
            token_stats(logits, tokens, inplace_backward=True)
