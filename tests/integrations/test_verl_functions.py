"""verl's log-probability and entropy functions, replaced and put back."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from entropy_ext import reference
from entropy_ext.integrations.verl import replace_token_functions, restore_token_functions

pytest.importorskip("verl", reason="verl is not installed: `make test-verl` runs these")


@pytest.fixture
def functional() -> Iterator[ModuleType]:
    import verl.utils.torch_functional as module

    yield module
    restore_token_functions()


def _logits(seed: int, *, spread: float = 4.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(3, 5, 97, generator=draw)
    return logits, torch.randint(0, 97, (3, 5), generator=draw)


def _with_gradient(
    function: str, module: ModuleType, logits: Tensor, *rest: Tensor
) -> list[Tensor]:
    logits = logits.clone().requires_grad_()
    value = getattr(module, function)(logits * 1.0, *rest)
    value.square().sum().backward()
    assert logits.grad is not None
    return [value.detach(), logits.grad]


@pytest.mark.parametrize("function", ["logprobs_from_logits", "entropy_from_logits"])
def test_same_values_and_gradients_as_verls(functional: ModuleType, function: str) -> None:
    """Would catch a sign, a missing row and a gradient that does not flow."""
    logits, labels = _logits(1)
    rest = (labels,) if function == "logprobs_from_logits" else ()
    expected = _with_gradient(function, functional, logits, *rest)
    replace_token_functions()
    found = _with_gradient(function, functional, logits, *rest)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def test_chunked_entropy_and_sum_pi_squared(functional: ModuleType) -> None:
    """Would catch another chunk signature and p instead of p²."""
    logits, _ = _logits(2)
    flat = logits.flatten(0, 1)
    entropy = functional.entropy_from_logits_with_chunking(flat, chunk_size=4)
    collision = functional.calculate_sum_pi_squared_from_logits(flat)
    replace_token_functions()
    torch.testing.assert_close(
        functional.entropy_from_logits_with_chunking(flat, chunk_size=4),
        entropy,
        rtol=1e-5,
        atol=1e-5,
    )
    torch.testing.assert_close(
        functional.calculate_sum_pi_squared_from_logits(flat), collision, rtol=1e-5, atol=1e-6
    )


def test_forbidden_tokens_stay_finite_where_verls_are_not(functional: ModuleType) -> None:
    """A logit of −inf makes verl's entropy NaN; ours is that of the tokens that are left."""
    logits, _ = _logits(3)
    logits[..., 50:] = -torch.inf
    assert functional.entropy_from_logits(logits).isnan().all()
    replace_token_functions()
    value, gradient = _with_gradient("entropy_from_logits", functional, logits)
    truth = reference.token_stats(logits.double(), torch.zeros(3, 5, dtype=torch.int64)).entropy
    torch.testing.assert_close(value, truth.float(), rtol=1e-5, atol=1e-5)
    assert gradient.isfinite().all()
    assert (gradient[..., 50:] == 0).all()


def test_half_precision_logits_give_float32(functional: ModuleType) -> None:
    """verl's log-probabilities of bfloat16 logits are bfloat16, which moves ratios by percents."""
    logits, labels = _logits(4)
    half = logits.bfloat16()
    truth = half.double().log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    theirs = functional.logprobs_from_logits(half, labels)
    replace_token_functions()
    ours = functional.logprobs_from_logits(half, labels)
    assert theirs.dtype == torch.bfloat16
    assert ours.dtype == torch.float32
    assert (ours - truth).abs().max() < 1e-5 < (theirs - truth).abs().max()


def test_gradient_overwrites_logits_only_on_request(functional: ModuleType) -> None:
    """Would catch in-place gradients under verl's default, where entropy still reads the logits."""
    replace_token_functions()
    leaf, labels = _logits(5)
    leaf.requires_grad_()
    logits = leaf * 1.0
    before = logits.detach().clone()
    functional.logprobs_from_logits(logits, labels).sum().backward()
    assert torch.equal(logits.detach(), before)
    expected = leaf.grad
    leaf.grad = None
    logits = leaf * 1.0
    functional.logprobs_from_logits(logits, labels, inplace_backward=True).sum().backward()
    assert torch.equal(leaf.grad, expected)
    assert not torch.equal(logits.detach(), before)
    # A leaf has nothing else to keep its values in.
    functional.logprobs_from_logits(leaf, labels, inplace_backward=True).sum().backward()


def test_every_module_of_verl_gets_them_and_gives_them_back(functional: ModuleType) -> None:
    """Would catch engines that imported the function by name and go on with verl's."""
    from verl.workers.engine.fsdp import transformer_impl

    before = transformer_impl.logprobs_from_logits
    assert before is functional.logprobs_from_logits
    replace_token_functions()
    assert transformer_impl.logprobs_from_logits is not before
    assert transformer_impl.logprobs_from_logits is functional.logprobs_from_logits
    ours = functional.logprobs_from_logits
    replace_token_functions()
    assert functional.logprobs_from_logits is ours
    restore_token_functions()
    assert transformer_impl.logprobs_from_logits is before
    assert functional.logprobs_from_logits is before


def test_entropy_compiles_as_verls_engines_compile_it(functional: ModuleType) -> None:
    """Would catch a graph break in what the FSDP engine wraps in torch.compile(dynamic=True)."""
    replace_token_functions()
    compiled = torch.compile(
        functional.entropy_from_logits, dynamic=True, fullgraph=True, backend="aot_eager"
    )
    for seed in (6, 7):
        logits, _ = _logits(seed)
        torch.testing.assert_close(compiled(logits), functional.entropy_from_logits(logits))
