"""Gradients of token_stats: the tolerance rule, absent upstream gradients, what is left alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from entropy_ext import token_stats
from tests import draws
from tests.truth import (
    DIFFERENTIABLE,
    EXTRAS,
    OUTPUTS,
    Upstream,
    assert_within_rule,
    baseline_run,
    run,
    same_bits,
    stats_dtype,
    true_run,
)

pytestmark = pytest.mark.usefixtures("one_thread")
UPSTREAM_NAMES = ["+".join(c) for n in (1, 2, 3) for c in itertools.combinations(DIFFERENTIABLE, n)]


def largest_weight(dtype: torch.dtype) -> float:
    return 1e3 if dtype == torch.float16 else 1e6


def check_gradients(
    kind: str, vocab: int, dtype: torch.dtype, device: torch.device, combinations: list[str]
) -> None:
    rows = 12 if vocab < 10_000 else 3
    logits = draws.draw_logits(kind, rows, vocab, dtype).to(device)
    tokens = draws.draw_tokens(logits.cpu()).to(device)
    temperature = draws.cycled_temperatures(rows, dtype).to(device)
    max_logp = baseline_run(logits, tokens, temperature).values["max_logp"]
    drawn = draws.draw_upstreams(max_logp, largest_weight(dtype))
    upstreams = [drawn[UPSTREAM_NAMES.index(name)] for name in combinations]

    ours = run(token_stats, logits, tokens, temperature, upstreams).gradients
    truth = true_run(logits, tokens, temperature, upstreams).gradients
    baseline = baseline_run(logits, tokens, temperature, upstreams).gradients
    # The token's entry is V times larger than the others: its error must not excuse theirs.
    at_token = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, tokens[:, None], True)
    for i, name in enumerate(combinations):
        assert ours[i].dtype == dtype
        for place, entries in (("token", at_token), ("others", ~at_token)):
            if entries.any():
                assert_within_rule(
                    f"gradient of {name}, {place}",
                    ours[i][entries],
                    truth[i][entries],
                    baseline[i][entries],
                    compute=stats_dtype(dtype),
                    stored=dtype,
                )


@pytest.mark.isa
@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
@pytest.mark.parametrize("vocab", draws.SMALL_VOCABULARIES)
@pytest.mark.parametrize("kind", draws.KINDS)
def test_gradients(kind: str, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Every combination of upstream gradients: catches a lost term, sign, 1/τ or row tail."""
    check_gradients(kind, vocab, dtype, device, UPSTREAM_NAMES)


@pytest.mark.parametrize(("kind", "vocab", "dtype"), draws.REAL_CASES, ids=str)
def test_gradients_at_real_vocabularies(
    kind: str, vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Catches p formed from a rounded lse, and half-precision gradients rounded twice."""
    check_gradients(kind, vocab, dtype, device, ["entropy", "logp+entropy+lse"])


@pytest.mark.isa
def test_hand_computed_gradients(device: torch.device) -> None:
    """p = (1, 2, 5)/8, τ = 1/2 on halved logits: each term of the formula on its own."""
    logits = (torch.tensor([[1.0, 2.0, 5.0]], device=device).log() / 2).requires_grad_()
    tokens = torch.tensor([1], device=device)
    p = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64) / 8
    entropy = -(p * p.log()).sum()
    by_hand = {
        "logp": 2 * (torch.tensor([0.0, 1.0, 0.0]) - p),
        "entropy": -2 * p * (p.log() + entropy),
        "lse": 2 * p,
    }
    for name, expected in by_hand.items():
        stats = token_stats(logits, tokens, temperature=0.5)
        (gradient,) = torch.autograd.grad(getattr(stats, name).sum(), logits)
        torch.testing.assert_close(gradient[0].double().cpu(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.isa
@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["randn", "peaked", "masked", "shifted"])
def test_a_gradient_row_sums_to_the_gradient_of_lse_over_temperature(
    kind: str, dtype: torch.dtype, device: torch.device
) -> None:
    """A common shift of the logits moves lse alone: catches p that do not sum to 1."""
    rows, vocab = 12, 2053
    logits = draws.draw_logits(kind, rows, vocab, dtype).to(device)
    tokens = draws.draw_tokens(logits.cpu()).to(device)
    temperature = draws.cycled_temperatures(rows, dtype).to(device)
    random = draws.generator("sums")
    g_logp, g_entropy, g_lse = (
        torch.randn(rows, generator=random).to(device) for _ in DIFFERENTIABLE
    )
    ours = run(token_stats, logits, tokens, temperature, [(g_logp, g_entropy, g_lse)])
    sums = torch.tensor([math.fsum(row) for row in ours.gradients[0].tolist()], dtype=torch.float64)
    # The +g_logp of a token of −inf has no entry to stand in: the others' −g_logp·p remain.
    dead = logits.gather(1, tokens[:, None])[:, 0] == -torch.inf
    expected = (g_lse.double() - torch.where(dead, g_logp, 0)) / temperature.double()
    # Every entry is rounded to its dtype, and p carries the rounding of ln Σ and of ln p.
    size = ours.gradients[0].double().abs().sum(-1)
    units = torch.finfo(dtype).eps / 2 + 16 * torch.finfo(stats_dtype(dtype)).eps
    subnormal = vocab * torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert ((sums - expected.cpu()).abs() <= (size * units + subnormal).cpu()).all()


@pytest.mark.isa
@pytest.mark.parametrize("present", UPSTREAM_NAMES)
def test_absent_upstream_gradients_count_as_zero(present: str, device: torch.device) -> None:
    """A loss that uses some outputs only: catches uninitialised memory read for the others."""
    logits = draws.draw_logits("peaked", 5, 2053, torch.float32).to(device).requires_grad_()
    tokens = draws.draw_tokens(logits.detach().cpu()).to(device)
    weights = dict(zip(DIFFERENTIABLE, torch.tensor([1.5, -0.5, 0.25]), strict=True))
    stats = token_stats(logits, tokens, temperature=0.6)
    loss = sum(
        (weights[name] * getattr(stats, name)).sum() * (name in present.split("+"))
        for name in DIFFERENTIABLE
    )
    (zeros,) = torch.autograd.grad(loss, logits)
    stats = token_stats(logits, tokens, temperature=0.6)
    loss = sum((weights[name] * getattr(stats, name)).sum() for name in present.split("+"))
    (absent,) = torch.autograd.grad(loss, logits)
    assert zeros.abs().max() > 0.1
    assert torch.equal(zeros, absent)


@pytest.mark.isa
@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_stride_0_upstream_gradients(dtype: torch.dtype, device: torch.device) -> None:
    """.sum().backward() sends one number expanded: catches reading past it."""
    logits = draws.draw_logits("peaked", 6, 33, dtype).to(device).requires_grad_()
    tokens = draws.draw_tokens(logits.detach().cpu()).to(device)
    stats = token_stats(logits, tokens)
    (stats.logp.sum() + stats.entropy.sum() + stats.lse.sum()).backward()
    ones = torch.ones(6, device=device)
    dense = run(token_stats, logits, tokens, 1.0, [(ones, ones, ones)]).gradients[0]
    assert logits.grad is not None
    assert same_bits(logits.grad, dense)


def test_strided_upstream_gradients(device: torch.device) -> None:
    """Catches a kernel that takes the upstream gradients to be contiguous."""
    logits = draws.draw_logits("peaked", 12, 33, torch.float32).to(device)
    logits = logits.reshape(3, 4, 33).requires_grad_()
    tokens = logits.detach().argmax(-1)
    stats = token_stats(logits, tokens)
    upstream = torch.randn(4, 3, generator=draws.generator("strided")).to(device).t()
    (strided,) = torch.autograd.grad(stats.entropy, logits, upstream, retain_graph=True)
    (dense,) = torch.autograd.grad(stats.entropy, logits, upstream.contiguous())
    assert same_bits(strided, dense)


def test_the_gradient_reaches_what_the_logits_come_from(device: torch.device) -> None:
    """A head, a slice and a reuse of the logits: against float64 autograd through the formulas."""
    random = draws.generator("head")
    hidden = torch.randn(2, 5, 16, generator=random, dtype=torch.float64).to(device)
    weight = torch.randn(33, 16, generator=random, dtype=torch.float64).to(device).requires_grad_()
    tokens = torch.randint(33, (2, 4), generator=random).to(device)

    def loss(stats: tuple[Tensor, Tensor, Tensor], logits: Tensor) -> Tensor:
        logp, entropy, lse = stats
        ratio = (logp - logp.detach() + 0.1).exp()
        return (ratio * 0.7 + 0.01 * entropy - 1e-3 * lse.square()).mean() + logits.square().mean()

    logits = hidden @ weight.t()
    stats = token_stats(logits[:, :-1], tokens, temperature=0.6)
    (ours,) = torch.autograd.grad(loss(stats[:3], logits), weight)

    logits = hidden @ weight.t()
    log_p = (logits[:, :-1] / 0.6).log_softmax(-1)
    logp = log_p.gather(-1, tokens[..., None])[..., 0]
    lse = (logits[:, :-1] / 0.6).logsumexp(-1)
    plain = (logp, -(log_p.exp() * log_p).sum(-1), lse)
    (expected,) = torch.autograd.grad(loss(plain, logits), weight)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.isa
@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_no_input_is_modified(dtype: torch.dtype, device: torch.device) -> None:
    """Catches an in-place kernel, and one that hides its writes from the version counter."""
    logits = draws.draw_logits("masked", 6, 2053, dtype).to(device).requires_grad_()
    tokens = draws.draw_tokens(logits.detach().cpu()).to(device)
    temperature = draws.cycled_temperatures(6, dtype).to(device)
    mask = torch.tensor([True, False] * 3, device=device)
    upstream = torch.full((6,), 0.5, device=device, dtype=stats_dtype(dtype))
    inputs = (logits, tokens, temperature, mask, upstream)
    before = [(x.detach().clone(), x._version) for x in inputs]
    stats = token_stats(logits, tokens, temperature=temperature, mask=mask, extras=True)
    outputs = {name: getattr(stats, name).detach().clone() for name in OUTPUTS}
    torch.autograd.backward(stats[:3], (upstream, upstream, upstream))
    for x, (value, version) in zip(inputs, before, strict=True):
        assert torch.equal(x.detach(), value)
        assert x._version == version
    for name, value in outputs.items():
        assert same_bits(getattr(stats, name).detach(), value), name


def test_logits_changed_in_place_before_the_backward_pass_are_refused(
    device: torch.device,
) -> None:
    """Catches saved logits that the version counter does not guard: a silent wrong gradient."""
    leaf = draws.draw_logits("randn", 3, 33, torch.float32).to(device).requires_grad_()
    logits = leaf * 2
    stats = token_stats(logits, logits.detach().argmax(-1))
    logits.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stats.entropy.sum().backward()


def test_what_requires_grad(device: torch.device) -> None:
    """Catches extras that pretend to be differentiable, and graphs kept for frozen logits."""
    logits = draws.draw_logits("randn", 3, 33, torch.float32).to(device)
    tokens = logits.argmax(-1)
    frozen = token_stats(logits, tokens, extras=True)
    assert not any(getattr(frozen, name).requires_grad for name in OUTPUTS)
    live = token_stats(logits.clone().requires_grad_(), tokens, extras=True)
    assert {n for n in OUTPUTS if getattr(live, n).requires_grad} == {*DIFFERENTIABLE}
    assert all(getattr(live, name).grad_fn is None for name in EXTRAS)
    with torch.no_grad():
        assert not token_stats(logits.clone().requires_grad_(), tokens).logp.requires_grad


def test_only_the_logits_themselves_are_kept_for_the_backward_pass(device: torch.device) -> None:
    """Catches probabilities, an upcast or a copy of strided logits saved: O(N·V) extra memory."""
    base = draws.draw_logits("randn", 6, 2053, torch.bfloat16).to(device).requires_grad_()
    logits = base.view(2, 3, 2053)[:, :-1]
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        token_stats(logits, torch.zeros(2, 2, dtype=torch.int64, device=device))
    large = [x for x in kept if x.numel() >= 2053]
    assert [x.data_ptr() for x in large] == [logits.data_ptr()]


def test_zero_upstream_gradients_give_zero(device: torch.device) -> None:
    """A token whose loss is off must not be moved, not even by rounding."""
    logits = draws.draw_logits("masked", 6, 2053, torch.float32).to(device)
    tokens = draws.draw_tokens(logits.cpu()).to(device)
    g = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], device=device)
    upstream: Upstream = (g, g, g)
    gradient = run(token_stats, logits, tokens, 0.6, [upstream]).gradients[0]
    assert (gradient.abs().amax(-1) > 0).tolist() == [x > 0 for x in g.tolist()]
