"""token_stats over the kept ids: values, gradients, contract, bits.

By definition they are the statistics of the row in which every logit not kept is −inf: truth and
baseline of the tolerance rule are those of that row, and gradients add to those of the whole row.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from entropy_ext import Support, TokenStats, reference, token_stats
from tests import draws
from tests.truth import (
    assert_within_rule,
    baseline_run,
    same_bits,
    stats_dtype,
    true_run,
)

pytestmark = [pytest.mark.isa, pytest.mark.usefixtures("one_thread")]
INF = math.inf
FIVE = ("logp", "entropy", "lse", "support_logp", "support_entropy")
each_dtype = pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)


def results(
    logits: Tensor,
    tokens: Tensor,
    support: Support | None,
    upstream: Tensor | None = None,
    **options: object,
) -> tuple[TokenStats, Tensor]:
    """Statistics, and the gradient for upstream [5, ...] of FIVE (default: distinct numbers)."""
    leaf = logits.detach().requires_grad_()
    stats = token_stats(leaf, tokens, support=support, **options)  # type: ignore[arg-type]
    if upstream is None:
        upstream = torch.tensor([1.0, -0.5, 0.25, -2.0, 1.5], device=logits.device)
        upstream = upstream.view(5, *[1] * tokens.ndim).expand(5, *tokens.shape)
    outputs = [getattr(stats, name) for name in FIVE]
    used = [(x, g.to(x.dtype)) for x, g in zip(outputs, upstream, strict=True) if x is not None]
    outputs, grads = zip(*used, strict=True)
    (gradient,) = torch.autograd.grad(outputs, leaf, grads)
    return stats, gradient


def kept_columns(lists: list[list[int]], tokens: Tensor, vocab: int) -> Tensor:
    """bool [N, V], without help from what is tested."""
    kept = torch.zeros(len(lists), vocab, dtype=torch.bool)
    for r, row in enumerate(lists):
        kept[r, [*row, int(tokens[r])]] = True
    return kept.to(tokens.device)


def check_rule(kind: str, rows: int, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    logits = draws.draw_logits(kind, rows, vocab, dtype)
    tokens = draws.draw_tokens(logits)
    lists = draws.draw_kept(logits, tokens)
    logits, tokens = logits.to(device), tokens.to(device)
    kept = kept_columns(lists, tokens, vocab)
    restricted = logits.masked_fill(~kept, -INF)
    temperature = draws.cycled_temperatures(rows, dtype).to(device)
    largest = 1e3 if dtype == torch.float16 else 1e6
    whole, part = (
        draws.draw_upstreams(baseline_run(z, tokens, temperature).values["max_logp"], largest)[-1]
        for z in (logits, restricted)
    )
    # Of one sign: where two large terms cancel, the rule would compare what is left of a few.
    whole, part = (torch.stack(upstream).abs() for upstream in (whole, part))
    zeros = torch.zeros_like(whole[0])
    for both in (
        (zeros, zeros, zeros, part[0], zeros),
        (zeros,) * 4 + (part[1],),
        (*whole, *part[:2]),
    ):
        stats, gradient = results(
            logits,
            tokens,
            Support.from_lists(lists, device=device),
            torch.stack(both),
            temperature=temperature,
        )
        expected = {}
        for name, run in (("truth", true_run), ("baseline", baseline_run)):
            a = run(logits, tokens, temperature, [both[:3]])
            b = run(restricted, tokens, temperature, [(*both[3:], None)])
            expected[name] = b.values, a.gradients[0] + b.gradients[0]
        for name in ("logp", "entropy"):
            value = getattr(stats, f"support_{name}").detach()
            assert value.dtype == stats_dtype(dtype)
            truth, baseline = (expected[x][0][name] for x in ("truth", "baseline"))
            assert_within_rule(name, value, truth, baseline, compute=stats_dtype(dtype))
        assert gradient.dtype == dtype
        at_token = torch.zeros_like(kept).scatter_(1, tokens[:, None], True)
        for place in (at_token, kept & ~at_token, ~kept):
            if place.any():
                assert_within_rule(
                    "gradient",
                    gradient[place],
                    expected["truth"][1][place],
                    expected["baseline"][1][place],
                    compute=stats_dtype(dtype),
                    stored=dtype,
                )


@each_dtype
@pytest.mark.parametrize("vocab", draws.SMALL_VOCABULARIES)
@pytest.mark.parametrize("kind", draws.KINDS)
def test_values_and_gradients(
    kind: str, vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Catches a lost token, term or 1/τ, a wrong normaliser, half precision rounded twice."""
    check_rule(kind, 12, vocab, dtype, device)


@each_dtype
@pytest.mark.parametrize("kind", ["randn", "peaked", "masked"])
def test_values_and_gradients_at_a_real_vocabulary(
    kind: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Sets from one id to the whole vocabulary: catches sums over many gathers that lose digits."""
    check_rule(kind, 6, 50257, dtype, device)


def test_hand_computed(device: torch.device) -> None:
    """The numeric case of keep-sampling-mask, and p = (1, 2, 5)/8 with the 2 left out."""
    logits = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0]], device=device)
    support = Support.from_lists([[0, 2, 4]], device=device)
    stats = token_stats(logits, torch.tensor([2], device=device), support=support)
    assert stats.support_logp.item() == pytest.approx(-1.4076, abs=5e-5)
    assert stats.logp.item() == pytest.approx(-1.5744, abs=5e-5)
    assert (stats.logp - stats.support_logp).exp().item() == pytest.approx(0.8463, abs=5e-5)

    logits = torch.tensor([[1.0, 2.0, 5.0]], device=device).log().requires_grad_()
    stats = token_stats(
        logits, torch.tensor([0], device=device), support=Support.from_lists([[2]], device=device)
    )
    q = (1 / 6, 5 / 6)
    entropy = -sum(x * math.log(x) for x in q)
    assert stats.support_logp.item() == pytest.approx(math.log(q[0]), rel=5e-7)
    assert stats.support_entropy.item() == pytest.approx(entropy, rel=5e-7)
    for name, expected in (
        ("support_logp", (1 - q[0], 0, -q[1])),
        (
            "support_entropy",
            (-q[0] * (math.log(q[0]) + entropy), 0, -q[1] * (math.log(q[1]) + entropy)),
        ),
    ):
        (gradient,) = torch.autograd.grad(getattr(stats, name).sum(), logits, retain_graph=True)
        assert gradient[0].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


@given(
    data=st.data(), dtype=st.sampled_from(draws.DTYPES), scale=st.sampled_from([0.01, 1.0, 30.0])
)
def test_any_support(
    device: torch.device, data: st.DataObject, dtype: torch.dtype, scale: float
) -> None:
    """Random sets over short rows, −inf among them, against the reference's own support."""
    vocab = data.draw(st.integers(1, 90))
    rows = data.draw(st.integers(1, 5))
    lists = data.draw(st.lists(st.lists(st.integers(0, vocab - 1)), min_size=rows, max_size=rows))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    logits = (torch.randn(rows, vocab, generator=random) * scale).to(dtype).to(device)
    tokens = torch.randint(vocab, (rows,), generator=random).to(device)
    logits[logits < -scale] = -INF
    logits.scatter_(1, tokens[:, None], scale)
    support = Support.from_lists(lists, device=device)
    stats, gradient = results(logits, tokens, support, temperature=0.6)

    leaf = logits.double().requires_grad_()
    truth = reference.token_stats(leaf, tokens, temperature=0.6, support=support)
    weights = (1.0, -0.5, 0.25, -2.0, 1.5)
    loss = sum(w * getattr(truth, name).sum() for w, name in zip(weights, FIVE, strict=True))
    (expected,) = torch.autograd.grad(loss, leaf)
    eps = torch.finfo(stats_dtype(dtype)).eps
    for name in ("support_logp", "support_entropy"):
        got, wanted = getattr(stats, name).double(), getattr(truth, name)
        torch.testing.assert_close(got, wanted, rtol=16 * eps, atol=16 * eps, msg=name)
        assert (getattr(stats, name) * (-1 if name == "support_logp" else 1) >= 0).all()
    stored = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), expected, rtol=stored, atol=64 * eps)


@each_dtype
def test_a_kept_mass_too_small_for_the_whole_row(dtype: torch.dtype, device: torch.device) -> None:
    """Kept logits 200 below the maximum: catches q formed from p, which is 0, or from lse."""
    low = draws.draw_logits("randn", 3, 70, dtype).to(device)
    high = torch.full((3, 5), 200.0, dtype=dtype, device=device)
    logits = torch.cat([low, high], dim=1)
    tokens = draws.draw_tokens(low.cpu()).to(device)
    stats, gradient = results(
        logits, tokens, Support.from_lists([list(range(70))] * 3, device=device)
    )
    alone, _ = results(low, tokens, None)
    torch.testing.assert_close(stats.support_logp, alone.logp, rtol=1e-6, atol=0)
    torch.testing.assert_close(stats.support_entropy, alone.entropy, rtol=1e-6, atol=0)
    upstream = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0], device=device)[:, None].expand(5, 3)
    _, gradient = results(
        logits, tokens, Support.from_lists([list(range(70))] * 3, device=device), upstream
    )
    leaf = low.clone().requires_grad_()
    whole = token_stats(leaf, tokens)
    (expected,) = torch.autograd.grad((whole.logp + whole.entropy).sum(), leaf)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient[:, :70], expected, rtol=eps, atol=1e-6)
    assert (gradient[:, 70:] == 0).all()


@each_dtype
def test_minus_infinity_among_the_kept(dtype: torch.dtype, device: torch.device) -> None:
    """Adds nothing and receives exactly 0; as the token it is impossible: catches 0·(−inf)."""
    logits = draws.draw_logits("randn", 4, 33, dtype).to(device)
    logits[:, 3:9] = -INF
    tokens = torch.tensor([1, 4, 4, 3], device=device)
    lists = [[1, 3, 5, 20], [3, 20, 21], list(range(33)), [3, 4]]
    stats, gradient = results(logits, tokens, Support.from_lists(lists, device=device))
    fewer = Support.from_lists([[1, 20], [20, 21], []], device=device)
    without, _ = results(logits[:3], tokens[:3], fewer)
    close = {"rtol": 1e-6, "atol": 0.0}
    torch.testing.assert_close(stats.support_logp[:1], without.support_logp[:1], **close)
    torch.testing.assert_close(stats.support_entropy[:2], without.support_entropy[:2], **close)
    torch.testing.assert_close(stats.support_entropy[2], stats.entropy[2], **close)
    assert stats.support_logp[1:3].tolist() == [-INF, -INF]
    assert gradient[:3].isfinite().all()
    assert (gradient[:3, 3:9] == 0).all()
    upstream = torch.tensor([0.0, 0, 0, 1.5, 0], device=device)[:, None].expand(5, 4)
    _, gradient = results(
        logits, tokens, Support.from_lists(lists, device=device), upstream, temperature=0.5
    )
    q = (logits[1, 20:22].double() / 0.5).softmax(-1)
    expected = -1.5 * q / 0.5
    stored = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient[1, 20:22].double(), expected, rtol=stored, atol=1e-6)
    # Nothing but −inf is kept: a softmax of nothing, NaN where it enters and nowhere else.
    assert stats.support_logp[3].isnan()
    assert stats.support_entropy[3].isnan()
    assert gradient[3].isnan().nonzero()[:, 0].tolist() == [3, 4]


@each_dtype
def test_nan_and_infinity(dtype: torch.dtype, device: torch.device) -> None:
    """Of a kept id they make the row NaN; of another the kept statistics do not know."""
    logits = draws.draw_logits("randn", 4, 33, dtype).to(device)
    logits[0, 7] = math.nan
    logits[1, 7] = INF
    logits[2, 8] = math.nan
    tokens = torch.full((4,), 3, device=device)
    stats, gradient = results(logits, tokens, Support.from_lists([[7, 9]] * 4, device=device))
    assert stats.support_logp.isnan().tolist() == [True, True, False, False]
    assert stats.support_entropy.isnan().tolist() == [True, True, False, False]
    assert stats.logp.isnan().tolist() == [True, True, True, False]
    assert gradient[:3].isnan().all()
    assert gradient[3].isfinite().all()


@each_dtype
def test_only_the_token(dtype: torch.dtype, device: torch.device) -> None:
    """An empty list: certainty, and no gradient but that of the whole row."""
    logits = draws.draw_logits("peaked", 4, 33, dtype).to(device)
    tokens = draws.draw_tokens(logits.cpu()).to(device)
    stats, gradient = results(logits, tokens, Support.from_lists([[]] * 4, device=device))
    assert stats.support_logp.tolist() == [0.0] * 4
    assert stats.support_entropy.tolist() == [0.0] * 4
    _, whole = results(logits, tokens, None)
    torch.testing.assert_close(gradient, whole, rtol=0, atol=0)


@each_dtype
def test_masked_rows_are_not_looked_at(dtype: torch.dtype, device: torch.device) -> None:
    """NaN logits, a token of −100, a broken list: 0 there, and the other rows as without them."""
    logits = draws.draw_logits("randn", 4, 33, dtype).to(device)
    logits[1:3] = math.nan
    tokens = torch.tensor([1, -100, 99, 2], device=device)
    mask = torch.tensor([True, False, False, True], device=device)
    support = Support(
        torch.tensor([0, 2, -7, 3, 5], device=device),
        torch.tensor([4, 9, 2**31 - 1, 0, 32], dtype=torch.int32, device=device),
    )
    stats, gradient = results(logits, tokens, support, mask=mask)
    fewer = Support.from_lists([[4, 9], [0, 32]], device=device)
    kept, expected = results(logits[mask], tokens[mask], fewer)
    for name in ("support_logp", "support_entropy"):
        assert getattr(stats, name)[1:3].tolist() == [0.0, 0.0]
        assert same_bits(getattr(stats, name)[mask], getattr(kept, name))
    assert (gradient[1:3] == 0).all()
    assert same_bits(gradient[mask], expected)
