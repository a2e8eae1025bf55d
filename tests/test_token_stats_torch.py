"""token_stats inside PyTorch: registration, gradcheck, compile, fake tensors, autocast."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import entropy_ext  # registers the operators
from entropy_ext import TokenStats, token_stats
from tests import draws
from tests.truth import OUTPUTS, same_bits, stats_dtype

forward_op = torch.ops.entropy_ext.token_stats_forward.default
backward_op = torch.ops.entropy_ext.token_stats_backward.default


def samples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Arguments of the forward operator: with and without mask, extras, per-token temperature."""
    logits = draws.draw_logits("peaked", 6, 33, dtype).view(2, 3, 33).to(device)
    tokens = logits.argmin(-1)
    scalar = torch.tensor(0.6, dtype=stats_dtype(dtype), device=device)
    each = draws.cycled_temperatures(6, dtype).view(2, 3).to(device)
    mask = torch.tensor([[True, False, True], [True, True, False]], device=device)

    def live(x: Tensor) -> Tensor:
        return x.detach().clone().requires_grad_()

    return [
        (live(logits), tokens, scalar, None, False),
        (live(logits), tokens, each, mask, True),
        (logits.clone()[:, :-1].requires_grad_(), tokens[:, :-1], each[:, :-1], None, True),
        (live(logits[0, 0]), tokens[0, 0], scalar, None, False),
        (live(logits[:0]), tokens[:0], scalar, mask[:0], True),
    ]


@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_opcheck_forward(dtype: torch.dtype, device: torch.device) -> None:
    """Catches a schema that lies about aliasing, and a fake of the wrong shape, dtype or stride."""
    for arguments in samples(device, dtype):
        torch.library.opcheck(forward_op, arguments)


@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_opcheck_backward(dtype: torch.dtype, device: torch.device) -> None:
    for logits, tokens, temperature, mask, _ in samples(device, dtype):
        with torch.no_grad():
            _, entropy, _, row_max, log_sum, *_ = forward_op(
                logits, tokens, temperature, mask, False
            )
        upstream = [torch.randn_like(entropy) for _ in range(3)]
        arguments = (logits.detach(), tokens, temperature, mask, entropy, row_max, log_sum)
        torch.library.opcheck(backward_op, (*arguments, *upstream))


@pytest.mark.isa
@pytest.mark.parametrize("kind", ["randn", "peaked", "flat"])
def test_gradcheck(kind: str, device: torch.device) -> None:
    """Finite differences of all three outputs, with a mask and a temperature for each token."""
    scale = 0.2 if kind == "peaked" else 1.0  # steep beyond that for a step of 1e-6
    logits = draws.draw_logits(kind, 4, 9, torch.float64).to(device) * scale
    logits.requires_grad_()
    tokens = draws.draw_tokens(logits.detach().cpu()).to(device)
    temperature = draws.cycled_temperatures(4, torch.float64).to(device)
    mask = torch.tensor([True, True, False, True], device=device)

    def function(z: Tensor) -> tuple[Tensor, ...]:
        return tuple(token_stats(z, tokens, temperature=temperature, mask=mask, extras=True)[:3])

    torch.autograd.gradcheck(function, logits, check_undefined_grad=True, check_batched_grad=False)


def test_double_backward_raises(device: torch.device) -> None:
    """Catches second derivatives that are silently zero."""
    logits = draws.draw_logits("randn", 3, 7, torch.float64).to(device).requires_grad_()
    stats = token_stats(logits, torch.zeros(3, dtype=torch.int64, device=device))
    (gradient,) = torch.autograd.grad(stats.entropy.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        gradient.square().sum().backward()


def test_double_backward_through_the_upstream_gradient_raises(device: torch.device) -> None:
    """An output used nonlinearly: its upstream gradient carries a graph of its own."""
    logits = draws.draw_logits("randn", 3, 7, torch.float64).to(device).requires_grad_()
    scale = torch.ones(3, dtype=torch.float64, device=device, requires_grad=True)
    stats = token_stats(logits, torch.zeros(3, dtype=torch.int64, device=device))
    (gradient,) = torch.autograd.grad((stats.logp * scale).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(gradient.square().sum(), scale)


def training_loss(logits: Tensor, tokens: Tensor, temperature: float | Tensor) -> Tensor:
    stats = token_stats(logits * 1.5, tokens, temperature=temperature, extras=True)
    assert stats.collision is not None
    weight = 1 + stats.collision
    return (weight * stats.logp + 0.1 * stats.entropy - 1e-3 * stats.lse.square()).sum()


def loss_and_gradient(
    loss: Any, logits: Tensor, tokens: Tensor, temperature: float | Tensor
) -> list[Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, tokens, temperature)
    return [value.detach(), *torch.autograd.grad(value, leaf)]


def test_work_is_queued_on_the_current_stream(device: torch.device) -> None:
    """Catches a launch on another stream, which would read logits that are not there yet."""
    if device.type != "cuda":
        pytest.skip("only CUDA has streams")
    logits = draws.draw_logits("peaked", 8, 2053, torch.float32)
    tokens = draws.draw_tokens(logits).to(device)
    logits = logits.to(device)
    expected = loss_and_gradient(training_loss, logits, tokens, 0.7)
    late = torch.zeros_like(logits)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles: some fifty milliseconds
        late.copy_(logits)
        got = loss_and_gradient(training_loss, late, tokens, 0.7)
    stream.synchronize()
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["number", "tensor"])
def test_compile_when_temperature_and_shape_change(form: str, device: torch.device) -> None:
    """One graph, forward and backward, equal to eager: catches a temperature baked into it."""
    counter = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    compiled = torch.compile(training_loss, fullgraph=True, backend=counter, dynamic=True)
    for rows, temperature in ((4, 0.6), (5, 1.0), (5, 1.7), (6, 0.9), (7, 0.35)):
        logits = draws.draw_logits("peaked", rows, 2053, torch.float32).to(device)
        tokens = draws.draw_tokens(logits.cpu()).to(device)
        tau = temperature if form == "number" else torch.full((rows,), temperature, device=device)
        got = loss_and_gradient(compiled, logits, tokens, tau)
        expected = loss_and_gradient(training_loss, logits, tokens, tau)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own imports
def test_compile_with_the_default_backend(device: torch.device) -> None:
    """Inductor generates code around the operators: catches strides and buffers assumed by it."""
    torch.compiler.reset()
    compiled = torch.compile(training_loss, fullgraph=True)
    logits = draws.draw_logits("peaked", 8, 2053, torch.bfloat16).view(2, 4, 2053).to(device)
    logits = logits[:, :-1]
    tokens = logits.argmax(-1)
    got = loss_and_gradient(compiled, logits, tokens, 0.6)
    expected = loss_and_gradient(training_loss, logits, tokens, 0.6)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[1], expected[1], rtol=2e-2, atol=1e-4)


def test_compiled_frozen_statistics(device: torch.device) -> None:
    """The rollout's use, without gradients and with a mask, in one graph and bit for bit."""
    counter = CompileCounter()
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend=counter)
    def statistics(logits: Tensor, tokens: Tensor, mask: Tensor) -> TokenStats:
        return token_stats(logits, tokens, temperature=0.6, mask=mask, extras=True)

    logits = draws.draw_logits("masked", 6, 33, torch.bfloat16).to(device)
    tokens = draws.draw_tokens(logits.cpu()).to(device)
    mask = torch.tensor([True, False] * 3, device=device)
    expected = token_stats(logits, tokens, temperature=0.6, mask=mask, extras=True)
    got = statistics(logits, tokens, mask)
    for name in OUTPUTS:
        assert same_bits(getattr(got, name), getattr(expected, name)), name
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_fake_and_meta_tensors(dtype: torch.dtype, device: torch.device) -> None:
    """Shapes, dtypes and devices without a kernel, as real ones: catches a host sync or a value."""

    def described(fake: bool) -> list[tuple[Any, ...]]:
        logits = torch.zeros(2, 4, 33, dtype=dtype, device=device, requires_grad=True)[:, :-1]
        tokens = torch.zeros(2, 3, dtype=torch.int64, device=device)
        mask = torch.ones(2, 3, dtype=torch.bool, device=device)
        stats = token_stats(logits, tokens, temperature=0.6, mask=mask, extras=True)
        (gradient,) = torch.autograd.grad(stats.entropy.sum() + stats.logp.sum(), logits)
        given = (*(x for x in stats if x is not None), gradient)
        return [(x.shape, x.dtype, x.device, x.stride()) for x in given]

    with FakeTensorMode():
        fake = described(True)
    assert fake == described(False)

    meta = token_stats(
        torch.empty(2, 3, 33, dtype=dtype, device="meta"),
        torch.empty(2, 3, dtype=torch.int64, device="meta"),
        extras=True,
    )
    for name in OUTPUTS:
        x = getattr(meta, name)
        assert (x.shape, x.dtype, x.device.type) == ((2, 3), stats_dtype(dtype), "meta")


def test_fake_tensors_are_checked_too(device: torch.device) -> None:
    """Catches a wrong shape that surfaces only when the compiled graph runs."""
    with FakeTensorMode():
        logits = torch.zeros(2, 3, 33, device=device)
        with pytest.raises(ValueError, match=r"^tokens: expected shape \[2, 3\]"):
            token_stats(logits, torch.zeros(2, 4, dtype=torch.int64, device=device))
        with pytest.raises(TypeError, match=r"^tokens: expected int64"):
            token_stats(logits, torch.zeros(2, 3, dtype=torch.int32, device=device))


class _Zeros(TorchDispatchMode):
    """How many tensors of zeros are made."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += "zeros" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("used", [("logp",), ("entropy", "lse"), ("logp", "entropy", "lse")])
def test_results_without_a_gradient_share_one_tensor_of_zeros(
    used: tuple[str, ...], device: torch.device
) -> None:
    """Fails if each result that the loss leaves out costs a kernel launch of its own."""
    logits = draws.draw_logits("randn", 4, 33, torch.float32).to(device).requires_grad_()
    tokens = logits.argmax(-1)
    stats = token_stats(logits, tokens, extras=True)
    loss = sum(getattr(stats, name).sum() for name in used)
    with _Zeros() as zeros:
        (gradient,) = torch.autograd.grad(loss, logits)
    assert zeros.count == (0 if len(used) == 3 else 1)
    truth = logits.detach().double().requires_grad_()
    logp = truth.log_softmax(-1)
    results = {
        "logp": logp.gather(-1, tokens[:, None]).sum(),
        "entropy": -(logp.exp() * logp).sum(),
        "lse": truth.logsumexp(-1).sum(),
    }
    (expected,) = torch.autograd.grad(sum(results[name] for name in used), truth)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_autocast_changes_nothing(dtype: torch.dtype, device: torch.device) -> None:
    """Catches statistics cast to bfloat16, where logp has three digits left."""
    logits = draws.draw_logits("randn", 4, 33, dtype).to(device)
    tokens = logits.argmax(-1)
    expected = token_stats(logits, tokens, temperature=0.6, extras=True)
    leaf = logits.clone().requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = token_stats(leaf, tokens, temperature=0.6, extras=True)
        got.entropy.sum().backward()
    for name in OUTPUTS:
        assert same_bits(getattr(got, name).detach(), getattr(expected, name)), name
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype
    assert leaf.grad.abs().max() > 0


def test_activation_checkpointing(device: torch.device) -> None:
    """The forward pass run twice and the gradient once: catches state kept between calls."""
    logits = draws.draw_logits("peaked", 4, 33, torch.float32).to(device).requires_grad_()
    tokens = draws.draw_tokens(logits.detach().cpu()).to(device)
    plain = loss_and_gradient(training_loss, logits, tokens, 0.6)

    def checkpointed(z: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        return torch.utils.checkpoint.checkpoint(
            training_loss, z, tokens, temperature, use_reentrant=False
        )

    for a, b in zip(loss_and_gradient(checkpointed, logits, tokens, 0.6), plain, strict=True):
        assert same_bits(a, b)


def test_backend_info(device: torch.device) -> None:
    """Says which code ran: catches a silent fall-back to another instruction set or device."""
    info = entropy_ext.backend_info()
    assert info["cpu_isa"] in {"v2", "v3", "v4", "baseline"}
    assert info["torch"] == torch.__version__
    assert info["cuda_usable"] or device.type != "cuda"
    assert bool(info["cuda_architectures"]) == info["cuda_built"]
    assert math.isfinite(token_stats(torch.zeros(1, 2), torch.tensor([0])).lse.item())
