"""Values of token_stats: the tolerance rule over distributions, dtypes and vocabulary sizes."""

from __future__ import annotations

import math
import signal
import subprocess
import sys

import pytest
import torch

from entropy_ext import reference, token_stats
from tests import draws
from tests.truth import (
    EXTRAS,
    OUTPUTS,
    assert_within_rule,
    baseline_run,
    gradient,
    run,
    same_bits,
    stats_dtype,
    true_run,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def check_values(kind: str, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    rows = 12 if vocab < 10_000 else 3
    logits = draws.draw_logits(kind, rows, vocab, dtype).to(device)
    tokens = draws.draw_tokens(logits.cpu()).to(device)
    temperature = draws.cycled_temperatures(rows, dtype).to(device)
    ours = run(token_stats, logits, tokens, temperature).values
    truth = true_run(logits, tokens, temperature).values
    baseline = baseline_run(logits, tokens, temperature).values
    for name in OUTPUTS:
        assert ours[name].dtype == stats_dtype(dtype)
        assert_within_rule(
            name, ours[name], truth[name], baseline[name], compute=stats_dtype(dtype)
        )


@pytest.mark.isa
@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
@pytest.mark.parametrize("vocab", draws.SMALL_VOCABULARIES)
@pytest.mark.parametrize("kind", draws.KINDS)
def test_values(kind: str, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Catches wrong tails of short rows, rounded temperatures, lost −inf, cancellation."""
    check_values(kind, vocab, dtype, device)


@pytest.mark.parametrize(("kind", "vocab", "dtype"), draws.REAL_CASES, ids=str)
def test_values_at_real_vocabularies(
    kind: str, vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Catches sums that lose digits, and segments merged wrongly, over a long row."""
    check_values(kind, vocab, dtype, device)


@pytest.mark.isa
@pytest.mark.parametrize("top", [9.0, 11.0, 13.0])
def test_one_logit_above_a_flat_tail(top: float, device: torch.device) -> None:
    """As of a trained model with unused columns. Catches a tail that is added, term by term, to a
    sum that holds the largest, and so is rounded away always in the same direction."""
    logits = torch.randn(8, 50257, generator=draws.generator("tail", top)) * 0.01
    logits[:, 7] = top
    logits = logits.to(device)
    tokens = torch.full((8,), 7, device=device)
    temperature = torch.ones(8, device=device)
    ours = run(token_stats, logits, tokens, temperature).values
    truth = true_run(logits, tokens, temperature).values
    baseline = baseline_run(logits, tokens, temperature).values
    for name in OUTPUTS:
        assert_within_rule(name, ours[name], truth[name], baseline[name], compute=torch.float32)


@pytest.mark.isa
def test_hand_computed(device: torch.device) -> None:
    """p = (1, 2, 5)/8: every formula evaluated by hand, so no oracle of ours is trusted."""
    logits = torch.tensor([[1.0, 2.0, 5.0]], device=device).log()
    stats = token_stats(logits, torch.tensor([1], device=device), extras=True)
    p = [1 / 8, 2 / 8, 5 / 8]
    entropy = -sum(x * math.log(x) for x in p)
    by_hand = {
        "logp": math.log(2 / 8),
        "entropy": entropy,
        "lse": math.log(8),
        "collision": 30 / 64,
        "collision_logp": sum(x * x * math.log(x) for x in p),
        "varentropy": sum(x * math.log(x) ** 2 for x in p) - entropy**2,
        "max_logp": math.log(5 / 8),
    }
    for name, value in by_hand.items():
        assert getattr(stats, name).item() == pytest.approx(value, rel=5e-7), name


@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
@pytest.mark.parametrize("temperature", draws.TEMPERATURES)
def test_scalar_temperature_is_the_same_number_in_every_row(
    temperature: float, dtype: torch.dtype, device: torch.device
) -> None:
    """Catches a float temperature rounded to the dtype of the logits on its way to the kernel."""
    logits = draws.draw_logits("randn", 5, 2053, dtype).to(device)
    tokens = draws.draw_tokens(logits.cpu()).to(device)
    scalar = token_stats(logits, tokens, temperature=temperature, extras=True)
    each = torch.full((5,), temperature, dtype=stats_dtype(dtype), device=device)
    rows = token_stats(logits, tokens, temperature=each, extras=True)
    zero_dim = token_stats(logits, tokens, temperature=each[0], extras=True)
    for name in OUTPUTS:
        assert same_bits(getattr(scalar, name), getattr(rows, name)), name
        assert same_bits(getattr(scalar, name), getattr(zero_dim, name)), name


@pytest.mark.isa
@pytest.mark.parametrize("temperature", draws.TEMPERATURES)
def test_common_offset_that_the_logits_can_hold_changes_no_bit(
    temperature: float, device: torch.device
) -> None:
    """Catches logp formed as z − lse, and scaling before centring: both lose 1e-3 at 1e4."""
    fine = torch.randint(-4096, 4096, (6, 2053), generator=draws.generator("offset"))
    logits = (fine / 512).to(device)  # multiples of 2^-9 below 8: exact at an offset of 1e4 too
    tokens = draws.draw_tokens(logits.cpu()).to(device)
    here = token_stats(logits, tokens, temperature=temperature, extras=True)
    for offset in (1e4, -1e4):
        there = token_stats(logits + offset, tokens, temperature=temperature, extras=True)
        for name in ("logp", "entropy", *EXTRAS):
            assert same_bits(getattr(here, name), getattr(there, name)), name


@pytest.mark.isa
@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
def test_logits_across_the_whole_range_of_the_dtype(
    dtype: torch.dtype, device: torch.device
) -> None:
    """Catches z − max overflowing to −inf, and then 0·inf, between finite logits."""
    info = torch.finfo(dtype)
    rows = [
        [info.max, info.min, 0.0, info.min],
        [info.min, info.max, info.max, 1.0],
        [info.min] * 4,
        [info.tiny * info.eps, -info.tiny * info.eps, 0.0, -0.0],
        [info.min, info.min, -0.0, 0.0],
    ]
    logits = torch.tensor(rows, dtype=torch.float64).to(dtype).to(device)
    tokens = torch.tensor([0, 2, 3, 1, 2], device=device)
    stats = token_stats(logits, tokens, extras=True)
    two, four = math.log(2), math.log(4)
    close = {"rel": 4 * torch.finfo(stats_dtype(dtype)).eps, "abs": 0}
    assert stats.logp.tolist() == pytest.approx([0, -two, -four, -four, -two], **close)
    assert stats.entropy.tolist() == pytest.approx([0, two, four, four, two], **close)
    assert stats.collision.tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1 / 4, 1 / 2], **close)
    assert stats.max_logp.tolist() == pytest.approx([0, -two, -four, -four, -two], **close)


@pytest.mark.isa
@pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
@pytest.mark.parametrize("temperature", draws.TEMPERATURES)
def test_the_lowest_finite_logit_as_the_token(
    temperature: float, dtype: torch.dtype, device: torch.device
) -> None:
    """A vocabulary masked with finfo.min, and its token drawn: logp = finfo.min/τ, not NaN."""
    lowest = torch.finfo(dtype).min
    logits = torch.tensor([[lowest, 0.0, lowest]], dtype=dtype, device=device)
    stats = token_stats(logits, torch.tensor([2], device=device), temperature=temperature)
    # Beyond the range of the result, −inf is what the division rounds to.
    expected = torch.tensor(lowest, dtype=stats.logp.dtype) / temperature
    assert stats.logp.item() == pytest.approx(expected.item(), rel=1e-6)
    assert stats.entropy.item() == 0
    assert stats.lse.item() == 0


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e6, 1e30])
def test_extreme_temperatures(temperature: float, device: torch.device) -> None:
    """Greedy and flat limits stay finite: catches inf·0 where z/τ leaves the range."""
    logits = draws.draw_logits("randn", 4, 2053, torch.float32).to(device)
    tokens = logits.argmax(-1)
    stats = token_stats(logits, tokens, temperature=temperature)
    truth = reference.token_stats(logits.double(), tokens, temperature=temperature)
    torch.testing.assert_close(stats.logp.double(), truth.logp, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stats.entropy.double(), truth.entropy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stats.lse.double(), truth.lse, rtol=1e-6, atol=1e-6)
    # 1/τ and V leave as the scale of the gradient.
    scaled = gradient(logits, tokens, temperature=temperature) * temperature
    p = (logits.double() / temperature).softmax(-1)
    expected = torch.zeros_like(p).scatter(1, tokens[:, None], 1.0)
    expected = expected - p * (p.log().nan_to_num() + truth.entropy[:, None])
    torch.testing.assert_close(scaled.double(), expected, rtol=1e-6, atol=1e-6)


def test_seventy_thousand_rows(device: torch.device) -> None:
    """Catches rows placed on a grid dimension that ends at 65535."""
    logits = draws.draw_logits("randn", 70_000, 17, torch.float32).to(device)
    tokens = torch.arange(70_000, device=device) % 17
    values = run(token_stats, logits, tokens, 1.0).values
    ones = torch.ones(70_000, device=device)
    truth = true_run(logits, tokens, ones).values
    baseline = baseline_run(logits, tokens, ones).values
    for name in OUTPUTS:
        assert_within_rule(name, values[name], truth[name], baseline[name], compute=torch.float32)


def test_more_than_two_to_the_31_elements(device: torch.device) -> None:
    """Catches a row count × vocabulary kept in 32 bits: every row of the view is the same row."""
    vocab = 65536
    rows = 2**31 // vocab + 3
    row = draws.draw_logits("randn", 1, vocab, torch.bfloat16).to(device)
    tokens = torch.arange(rows, device=device)
    stats = token_stats(row.expand(rows, vocab), tokens)
    alone = token_stats(row, tokens[:1])
    assert same_bits(stats.entropy, alone.entropy.expand(rows))
    assert same_bits(stats.lse, alone.lse.expand(rows))
    first, last = tokens[:1], tokens[-1:]
    assert same_bits(stats.logp[:1], token_stats(row, first).logp)
    assert same_bits(stats.logp[-1:], token_stats(row, last).logp)


def test_a_stride_of_more_than_two_to_the_31_elements(device: torch.device) -> None:
    """Catches 32-bit row offsets; only the two rows of the 4 GiB are ever touched."""
    vocab, stride = 2053, 2**31 + 8
    room = torch.empty(stride + vocab, dtype=torch.bfloat16, device=device)
    logits = room.as_strided((2, vocab), (stride, 1))
    logits.copy_(draws.draw_logits("randn", 2, vocab, torch.bfloat16))
    tokens = torch.tensor([5, 2052], device=device)
    weights = (torch.ones(2, device=device), torch.ones(2, device=device), None)
    far = run(token_stats, logits, tokens, 0.6, [weights])
    near = run(token_stats, logits.clone(), tokens, 0.6, [weights])
    for name in OUTPUTS:
        assert same_bits(far.values[name], near.values[name]), name
    assert same_bits(far.gradients[0], near.gradients[0])


READ_OF_A_MASKED_ROW = """
import ctypes, mmap, resource, sys
import torch
from entropy_ext import token_stats

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
vocab = 16 * mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * 4 * vocab)
logits = torch.frombuffer(memory, dtype=torch.float32).view(3, vocab).fill_(1.0)
tokens = torch.tensor([0, -100, vocab - 1])
mask = torch.tensor([True, False, True])
libc = ctypes.CDLL(None, use_errno=True)
row = ctypes.c_void_p(logits[1].data_ptr())
assert libc.mprotect(row, ctypes.c_size_t(4 * vocab), 0) == 0, ctypes.get_errno()
leaf = logits.requires_grad_()
for rows in (slice(None), slice(1, None)):  # shared by threads, and one row between two
    stats = token_stats(leaf[rows], tokens[rows], mask=mask[rows], extras=True)
    (stats.logp.sum() + stats.entropy.sum()).backward()
assert stats.entropy[0] == 0 and stats.entropy[1] > 10, stats
print("masked row not read", flush=True)
token_stats(logits[1:2].detach(), tokens[:1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as on Linux")
def test_masked_rows_are_not_read() -> None:
    """The masked row lies in memory whose reading kills the process, as the last line shows."""
    done = subprocess.run(
        [sys.executable, "-c", READ_OF_A_MASKED_ROW], capture_output=True, text=True, check=False
    )
    assert done.stdout == "masked row not read\n", done.stderr
    assert done.returncode == -signal.SIGSEGV, done.stderr
