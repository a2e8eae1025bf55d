"""Bits of the statistics over the kept ids, and of what must not know of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from entropy_ext import Support
from tests import draws
from tests.test_token_stats_support import FIVE, each_dtype, kept_columns, results
from tests.truth import OUTPUTS, same_bits

pytestmark = [pytest.mark.isa, pytest.mark.usefixtures("one_thread")]


class Batch:
    """Rows of mixed kind with kept sets of every size."""

    def __init__(self, rows: int, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
        kinds = ("randn", "peaked", "masked", "shifted")
        each = [draws.draw_logits(kind, rows // 4 + 1, vocab, dtype) for kind in kinds]
        logits = torch.stack(each, dim=1).flatten(0, 1)[:rows]
        tokens = draws.draw_tokens(logits)
        self.lists = draws.draw_kept(logits, tokens)
        self.support = Support.from_lists(self.lists, device=device)
        self.logits, self.tokens = logits.to(device), tokens.to(device)

    def results(self, rows: Tensor | slice = slice(None)) -> list[Tensor]:
        stats, gradient = results(
            self.logits[rows], self.tokens[rows], self.support.rows(rows), temperature=0.7
        )
        return [stats.support_logp, stats.support_entropy, gradient]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    for name, a, b in zip(
        ("support_logp", "support_entropy", "gradient"), got, expected, strict=True
    ):
        assert same_bits(a.detach(), b.detach()), name


@each_dtype
@pytest.mark.parametrize("vocab", [7, 2053])
def test_the_bits_of_a_row_are_its_own(
    vocab: int, dtype: torch.dtype, device: torch.device, set_threads: Callable[[int], None]
) -> None:
    """Alone, among many, in any order, with any threads: catches state carried between rows."""
    batch = Batch(37, vocab, dtype, device)
    together = batch.results()
    for r in (0, 1, 17, 36):
        assert_same(batch.results(slice(r, r + 1)), [x[r : r + 1] for x in together])
    order = torch.randperm(37, generator=draws.generator("order")).to(device)
    assert_same(batch.results(order), [x[order] for x in together])
    for threads in (2, 3, 64):
        set_threads(threads)
        assert_same(batch.results(), together)


@each_dtype
@pytest.mark.parametrize("vocab", [7, 2053, 50257])
def test_the_rest_does_not_know_of_the_support(
    vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Catches a bit of logp, entropy, lse, an extra or a gradient elsewhere that it changes."""
    batch = Batch(12, vocab, dtype, device)
    plain, without = results(batch.logits, batch.tokens, None, extras=True)
    stats, gradient = results(batch.logits, batch.tokens, batch.support, extras=True)
    for name in OUTPUTS:
        assert same_bits(getattr(plain, name).detach(), getattr(stats, name).detach()), name
    elsewhere = ~kept_columns(batch.lists, batch.tokens, vocab)
    assert same_bits(gradient[elsewhere], without[elsewhere])


@each_dtype
def test_a_token_that_is_listed_and_one_that_is_not(
    dtype: torch.dtype, device: torch.device
) -> None:
    """First, last and between: catches a token counted twice, and one added in another order."""
    batch = Batch(12, 2053, dtype, device)
    rows = list(zip(batch.lists, batch.tokens.tolist(), strict=True))
    both = [
        Support.from_lists(
            [[*{*row} - {token}, *also(token)] for row, token in rows], device=device
        )
        for also in (lambda token: [], lambda token: [token])
    ]
    without, listed = (results(batch.logits, batch.tokens, support) for support in both)
    for name in FIVE:
        assert same_bits(getattr(without[0], name).detach(), getattr(listed[0], name).detach())
    assert same_bits(without[1], listed[1])
