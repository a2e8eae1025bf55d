"""What the selection kernels must find, in plain NumPy, written from the definitions.

The tokens chosen come from a sort; counts and states from the digits of the keys, cut out as a
matrix. Neither knows how the kernels shift and mask.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.simt.selection_emulator import BINS, STATE_WORDS, Order, Rule, digit_widths

_WORD = (1 << 64) - 1


def mix(x: int) -> int:
    """Stafford's variant 13 of the finaliser of MurmurHash3, on Python's integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _WORD
    return x ^ (x >> 31)


def token_hash(seed: int, token_id: int) -> int:
    """Of 64 bits; the same function as TokenHash."""
    first = mix((seed + 0x9E3779B97F4A7C15) & _WORD)
    second = mix(first ^ 0xD1B54A32D192ED03)
    return mix(mix((token_id + first) & _WORD) ^ second)


def descending_key(values: np.ndarray) -> np.ndarray:
    """Unsigned, smaller for larger values; −0 counts as 0."""
    unsigned = {4: np.uint32, 8: np.uint64}[values.itemsize]
    bits = np.where(values == 0, 0, values).astype(values.dtype).view(unsigned)
    negative = np.signbit(np.where(values == 0, 0, values))
    top = unsigned(1 << (8 * values.itemsize - 1))
    # The larger a negative number's bits, the smaller it is.
    return np.where(negative, bits, ~(bits | top)).astype(np.uint64)


def chosen_count(rule: Rule, fraction: float, valid: int, candidates: int) -> int:
    if valid == 0:
        return 0
    count = {
        Rule.FLOOR: lambda: int(fraction * valid),
        Rule.CEIL: lambda: int(fraction * valid + 0.9999),
        Rule.QUANTILE: lambda: valid - math.ceil((1 - fraction) * (valid - 1)),
    }[rule]()
    return min(max(count, 1), candidates)


class Selection(NamedTuple):
    counters: Tensor  # [passes, BINS + 1]
    states: Tensor  # [passes + 1, STATE_WORDS]
    selected: Tensor  # [count] bool


def select(
    values: Tensor,
    mask: Tensor | None = None,
    *,
    excluded: Tensor | None = None,
    token_ids: Tensor | None = None,
    selection_seed: int | None = None,
    rule: Rule = Rule.FLOOR,
    low: float = -math.inf,
    high: float = math.inf,
    fraction: float,
) -> Selection:
    count = len(values)
    number = values.numpy()
    valid = np.ones(count, bool) if mask is None else mask.numpy()
    candidate = valid & ~np.isnan(number)
    if low > -math.inf:
        candidate &= number > low
    if high < math.inf:
        candidate &= number < high
    if excluded is not None:
        candidate &= ~excluded.numpy()
    ids = np.arange(count) if token_ids is None else token_ids.numpy()

    order = Order.LARGEST if selection_seed is None else Order.RANDOM
    if order == Order.LARGEST:
        value_keys = descending_key(number)
    else:
        value_keys = np.array([token_hash(selection_seed, int(i)) for i in ids], dtype=np.uint64)
    id_keys = ids.astype(np.int64).view(np.uint64)
    if token_ids is not None:
        id_keys = id_keys ^ np.uint64(1 << 63)
    value_widths, id_widths = digit_widths(values.dtype, order, rule, count, token_ids is not None)
    wanted = chosen_count(rule, fraction, int(valid.sum()), int(candidate.sum()))

    counters, states = _count(
        np.hstack([_digits(value_keys, value_widths), _digits(id_keys, id_widths)]),
        candidate,
        wanted,
        int(valid.sum()),
        (value_widths, id_widths),
    )
    return Selection(
        torch.from_numpy(counters),
        torch.from_numpy(states),
        torch.from_numpy(_chosen(number, ids, value_keys, candidate, wanted, order, rule)),
    )


def _chosen(
    values: np.ndarray,
    ids: np.ndarray,
    hashes: np.ndarray,
    candidate: np.ndarray,
    wanted: int,
    order: Order,
    rule: Rule,
) -> np.ndarray:
    places = np.flatnonzero(candidate)
    if order == Order.RANDOM:
        places = places[np.argsort(hashes[places], kind="stable")]
    else:
        places = places[np.lexsort((ids[places], -values[places]))]
    chosen = np.zeros(len(values), bool)
    chosen[places[:wanted]] = True
    if rule == Rule.QUANTILE and order == Order.LARGEST and wanted > 0:
        chosen |= candidate & (values >= values[places[wanted - 1]])
    return chosen


def _digits(keys: np.ndarray, widths: list[int]) -> np.ndarray:
    """[count, digits], from the most significant."""
    text = [format(int(key), f"0{sum(widths)}b") if widths else "" for key in keys]
    ends = np.cumsum([0, *widths])
    pairs = list(itertools.pairwise(ends))
    return np.array([[int(t[a:b], 2) for a, b in pairs] for t in text], dtype=np.int64).reshape(
        len(keys), len(widths)
    )


def _count(
    digits: np.ndarray,
    agreeing: np.ndarray,
    need: int,
    valid: int,
    widths: tuple[list[int], list[int]],
) -> tuple[np.ndarray, np.ndarray]:
    passes = digits.shape[1]
    counters = np.zeros((passes, BINS + 1), np.int64)
    states = np.zeros((passes + 1, STATE_WORDS), np.int64)
    counters[0, BINS] = valid
    prefixes = [0, 0]
    known, resolved = 0, False
    for d in range(passes):
        if not resolved:
            counts = np.bincount(digits[agreeing, d], minlength=BINS)
            counters[d, :BINS] = counts
            resolved = d == 0 and need == counts.sum()
            if not resolved:
                up_to = np.cumsum(counts)
                digit = int(np.searchsorted(up_to, need))
                need -= int(up_to[digit] - counts[digit])
                agreeing = agreeing & (digits[:, d] == digit)
                key = int(d >= len(widths[0]))
                width = [*widths[0], *widths[1]][d]
                prefixes[key] = prefixes[key] << width | digit
                known += 1
                resolved = need == counts[digit] or known == passes
        signed = [p - (1 << 64) if p >> 63 else p for p in prefixes]
        states[d + 1] = need, known, resolved, *signed
    return counters, states
