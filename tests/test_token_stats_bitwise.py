"""A row's results depend on that row alone: identical bits however it is stored, placed or shared.

Every test compares logp, entropy, lse and the gradient of a row bit by bit with those of the same
row computed alone. The device is one throughout: bits may differ between devices.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from entropy_ext import token_stats
from tests import draws
from tests.truth import OUTPUTS, same_bits, stats_dtype

pytestmark = [pytest.mark.isa, pytest.mark.usefixtures("one_thread")]
each_dtype = pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)
# Odd, a multiple of every vector width, and long enough for a row to be cut into pieces.
each_vocabulary = pytest.mark.parametrize("vocab", [7, 2053, 50257])


class Batch:
    """Logits [N, V] of mixed shape with tokens, temperatures and upstream gradients [N]."""

    def __init__(self, rows: int, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
        kinds = ("randn", "peaked", "masked", "shifted")
        each = [draws.draw_logits(kind, rows // 4 + 1, vocab, dtype) for kind in kinds]
        self.logits = torch.stack(each, dim=1).flatten(0, 1)[:rows].to(device)
        self.tokens = draws.draw_tokens(self.logits.cpu()).to(device)
        self.temperature = draws.cycled_temperatures(rows, dtype).to(device)
        g = torch.randn(3, rows, generator=draws.generator("bitwise"), dtype=stats_dtype(dtype))
        self.upstream = g.to(device)

    def results(
        self,
        rows: Tensor | slice = slice(None),
        *,
        logits: Tensor | None = None,
        mask: Tensor | None = None,
        extras: bool = False,
    ) -> list[Tensor]:
        """logp, entropy, lse and gradient of the chosen rows, of `logits` in place of our own."""
        leaf = (self.logits[rows] if logits is None else logits).detach().requires_grad_()
        stats = token_stats(
            leaf,
            self.tokens[rows].view(leaf.shape[:-1]),
            temperature=self.temperature[rows].view(leaf.shape[:-1]),
            mask=mask,
            extras=extras,
        )
        upstream = tuple(g[rows].view(leaf.shape[:-1]) for g in self.upstream)
        (gradient,) = torch.autograd.grad(stats[:3], leaf, upstream)
        flat = [x.detach().reshape(-1) for x in stats[:3]]
        return [*flat, gradient.reshape(-1, leaf.shape[-1])]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    for name, a, b in zip(("logp", "entropy", "lse", "gradient"), got, expected, strict=True):
        assert same_bits(a, b), name


@each_dtype
@each_vocabulary
def test_alone_and_among_many(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Catches a schedule, a block shape or a reduction tree that looks at the number of rows."""
    batch = Batch(37, vocab, dtype, device)
    together = batch.results()
    for r in (0, 1, 17, 36):
        assert_same([x[r : r + 1] for x in together], batch.results(slice(r, r + 1)))
    assert_same([x[3:8] for x in together], batch.results(slice(3, 8)))


@each_dtype
@each_vocabulary
def test_any_order(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Catches state carried from one row to the next."""
    batch = Batch(37, vocab, dtype, device)
    order = torch.randperm(37, generator=draws.generator("order")).to(device)
    assert_same(batch.results(order), [x[order] for x in batch.results()])


@each_dtype
@each_vocabulary
def test_any_mask_on_other_rows(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Catches rows compacted, paired or rescheduled by what the mask leaves."""
    batch = Batch(37, vocab, dtype, device)
    unmasked = batch.results()
    for share in (0.2, 0.8):
        mask = torch.rand(37, generator=draws.generator("mask")).to(device) < share
        mask[5] = True
        masked = batch.results(mask=mask)
        assert_same([x[mask] for x in masked], [x[mask] for x in unmasked])


@each_dtype
@each_vocabulary
def test_storage_offset(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Catches a peeled loop or a scalar path chosen by alignment that adds in another order."""
    batch = Batch(6, vocab, dtype, device)
    expected = batch.results()
    for offset in (1, 3, 8):
        room = torch.zeros(offset + batch.logits.numel(), dtype=dtype, device=device)
        moved = room[offset:].view(6, vocab)
        moved.copy_(batch.logits)
        assert_same(batch.results(logits=moved), expected)


@each_dtype
@each_vocabulary
def test_strided_leading_dimensions(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Rows of [B, T+1, V] sliced, of [T, B, V] transposed, of a wider buffer."""
    batch = Batch(12, vocab, dtype, device)
    expected = batch.results()
    row_of = batch.logits.view(3, 4, vocab)

    longer = torch.full((3, 5, vocab), float("nan"), dtype=dtype, device=device)
    longer[:, :-1] = row_of
    assert_same(batch.results(logits=longer[:, :-1]), expected)

    time_first = row_of.transpose(0, 1).contiguous().transpose(0, 1)
    assert not time_first.is_contiguous()
    assert_same(batch.results(logits=time_first), expected)

    wider = torch.full((12, vocab + 5), float("nan"), dtype=dtype, device=device)
    wider[:, 2:-3] = batch.logits
    assert_same(batch.results(logits=wider[:, 2:-3]), expected)

    nested = batch.logits.view(2, 3, 2, vocab)
    scattered = nested.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    assert_same(batch.results(logits=scattered), expected)


@each_dtype
def test_expanded_rows(dtype: torch.dtype, device: torch.device) -> None:
    """One row under stride 0, as many tokens scored against it: catches strides taken for V."""
    batch = Batch(6, 2053, dtype, device)
    expanded = batch.logits[2:3].expand(6, 2053)
    assert_same(batch.results(logits=expanded), batch.results(logits=expanded.contiguous()))


@each_dtype
@each_vocabulary
def test_extras_and_requires_grad(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Catches a richer accumulator, or a path without gradients, that rounds differently."""
    batch = Batch(6, vocab, dtype, device)
    expected = batch.results()
    assert_same(batch.results(extras=True), expected)
    for extras in (False, True):
        frozen = token_stats(
            batch.logits, batch.tokens, temperature=batch.temperature, extras=extras
        )
        for got, wanted in zip(frozen[:3], expected[:3], strict=True):
            assert same_bits(got, wanted)


@each_dtype
@pytest.mark.parametrize(("rows", "vocab"), [(1, 262144), (3, 50257), (37, 2053), (5, 7)])
def test_any_number_of_threads(
    rows: int,
    vocab: int,
    dtype: torch.dtype,
    device: torch.device,
    set_threads: Callable[[int], None],
) -> None:
    """1, 2, 3 and more threads than cores or rows: catches a reduction over threads."""
    batch = Batch(rows, vocab, dtype, device)
    mask = torch.arange(rows, device=device) % 5 != 1
    set_threads(1)
    expected = [batch.results(extras=extras) for extras in (False, True)]
    masked = batch.results(mask=mask)
    for threads in (2, 3, 64):
        set_threads(threads)
        for extras in (False, True):
            assert_same(batch.results(extras=extras), expected[extras])
        assert_same(batch.results(mask=mask), masked)


@each_dtype
def test_a_long_row_is_spread_with_the_same_bits(dtype: torch.dtype, device: torch.device) -> None:
    """N = 1 at V = 262144, shared by threads or blocks, against the same row among 64."""
    batch = Batch(4, 262144, dtype, device)
    rows = torch.arange(64, device=device) % 4
    together = batch.results(rows)
    for r in range(4):
        alone = batch.results(slice(r, r + 1))
        for place in (r, r + 60):
            assert_same([x[place : place + 1] for x in together], alone)
    # Extras from shared and unshared rows too.
    shared = token_stats(batch.logits[:1], batch.tokens[:1], extras=True)
    among = token_stats(batch.logits[rows], batch.tokens[rows], extras=True)
    for name in OUTPUTS:
        assert same_bits(getattr(shared, name), getattr(among, name)[:1]), name


@each_dtype
def test_run_to_run(dtype: torch.dtype, device: torch.device) -> None:
    """Catches atomics and uninitialised accumulators: the same call, ten times over."""
    batch = Batch(5, 50257, dtype, device)
    expected = batch.results()
    for _ in range(10):
        assert_same(batch.results(), expected)


@given(
    vocab=st.integers(1, 5000),
    rows=st.integers(1, 9),
    offset=st.integers(0, 17),
    dtype=st.sampled_from(draws.DTYPES),
    row=st.integers(0, 8),
)
def test_any_vocabulary_offset_and_batch(
    device: torch.device, vocab: int, rows: int, offset: int, dtype: torch.dtype, row: int
) -> None:
    """Every combination of tail, alignment and neighbours."""
    batch = Batch(rows, vocab, dtype, device)
    row %= rows
    room = torch.zeros(offset + batch.logits.numel(), dtype=dtype, device=device)
    moved = room[offset:].view(rows, vocab)
    moved.copy_(batch.logits)
    together = batch.results(logits=moved)
    assert_same([x[row : row + 1] for x in together], batch.results(slice(row, row + 1)))
