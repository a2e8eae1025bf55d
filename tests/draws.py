"""Logits, tokens and upstream gradients for the tests, drawn from a seed that names the case."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from tests.truth import Upstream, stats_dtype

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TEMPERATURES = (0.6, 1.0, 1.7)
SMALL_VOCABULARIES = (1, 7, 33, 2053)
REAL_VOCABULARIES = (50257, 128256, 151936, 152064)
KINDS = ("uniform", "randn", "peaked", "one_hot", "masked", "shifted", "finfo_min", "flat")
# Every distribution and dtype at one vocabulary, and the two hardest at the others.
REAL_CASES = [(kind, 151936, dtype) for kind in KINDS for dtype in DTYPES] + [
    (kind, vocab, dtype)
    for kind in ("peaked", "masked")
    for vocab in REAL_VOCABULARIES
    for dtype in (torch.float32, torch.bfloat16)
    if vocab != 151936
]


def generator(*name: object) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(repr(name).encode()))


def draw_logits(kind: str, rows: int, vocab: int, dtype: torch.dtype) -> Tensor:
    """[rows, vocab] logits on the CPU. Every row keeps a finite logit.

    Near-uniform rows hide wrong entropy gradients, peaked ones hide a wrong normaliser: both kinds.
    """
    random = generator(kind, rows, vocab)
    z = torch.randn(rows, vocab, generator=random, dtype=torch.float64)
    spared = torch.randint(vocab, (rows, 1), generator=random)
    if kind == "uniform":
        z = torch.rand(rows, vocab, generator=random, dtype=torch.float64) * 2 - 1
    elif kind == "peaked":
        z = z * 20
    elif kind == "one_hot":
        z = torch.full_like(z, -50).scatter(1, spared, 50)
    elif kind == "shifted":
        z = z + 1e4
    elif kind == "flat":
        z = torch.full_like(z, 3) + z * 1e-6
    elif kind in ("masked", "finfo_min"):
        # A long run at the front (whole tiles without a finite logit) and half of the rest.
        excluded = torch.rand(rows, vocab, generator=random) < 0.5
        excluded[:, : vocab // 3] = True
        excluded = excluded.scatter(1, spared, False)
        z = z.masked_fill(excluded, -torch.inf if kind == "masked" else torch.finfo(dtype).min)
    elif kind != "randn":
        raise ValueError(f"kind: unknown distribution {kind!r}")
    return z.to(dtype)


def draw_tokens(logits: Tensor) -> Tensor:
    """[rows] int64: the first column, the last, the most likely and a random one, in turn.

    A logit near the lowest finite number is not drawn: the ulp of its logp would excuse the others.
    """
    rows, vocab = logits.shape
    row = torch.arange(rows)
    likely = logits.argmax(-1)
    random = torch.randint(vocab, (rows,), generator=generator("tokens", rows, vocab))
    first, last = torch.zeros_like(likely), torch.full_like(likely, vocab - 1)
    tokens = torch.stack([first, last, likely, random])[row % 4, row]
    drawn = logits[row, tokens]
    return torch.where((drawn < -1e4) & drawn.isfinite(), likely, tokens)


def draw_kept(logits: Tensor, tokens: Tensor) -> list[list[int]]:
    """Kept ids of every row: the likeliest, the unlikeliest, half, few, none and all, in turn.

    Some lists hold the token and some do not, some hold logits of −inf; with the token there is
    always something finite.
    """
    rows, vocab = logits.shape
    order = logits.argsort(dim=-1, descending=True).tolist()
    live = (logits > -torch.inf).sum(-1).tolist()
    random = torch.rand(rows, vocab, generator=generator("kept", rows, vocab))
    lists: list[list[int]] = []
    for r in range(rows):
        made = [
            order[r][:64],
            order[r][: live[r]][-10:],
            (random[r] < 0.5).nonzero()[:, 0].tolist(),
            random[r].argsort()[:3].tolist(),
            [],
            list(range(vocab)),
        ][r % 6]
        some_finite = any(logits[r, i] > -torch.inf for i in (*made, tokens[r]))
        lists.append(made if some_finite else order[r][:2])
    return lists


def cycled_temperatures(rows: int, dtype: torch.dtype) -> Tensor:
    """[rows] temperatures; rows r and r + 3 share one."""
    return torch.tensor(TEMPERATURES, dtype=stats_dtype(dtype)).repeat(rows // 3 + 1)[:rows]


def draw_upstreams(max_logp: Tensor, largest: float) -> list[Upstream]:
    """Every combination of upstream gradients, in proportion to 1/p_max of the row.

    So weighted, the entries of a gradient row are of order 1 for any vocabulary, and an absolute
    bound of 4 ulp is a relative one. `largest` keeps the weights in the range of half precision.
    """
    weight = (-max_logp.double().cpu()).exp().clamp(max=largest)
    random = generator("upstream", len(weight))
    g = [torch.randn(len(weight), generator=random).double() * weight for _ in range(3)]
    logp, entropy, lse = (x.float().to(max_logp.device) for x in g)
    return [
        (logp, None, None),
        (None, entropy, None),
        (None, None, lse),
        (logp, entropy, None),
        (logp, None, lse),
        (None, entropy, lse),
        (logp, entropy, lse),
    ]
