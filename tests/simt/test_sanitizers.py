"""The kernels under the sanitizers: every access in bounds, nothing undefined, no race.

Each program also has to give the bits of the plain one, which was compiled with other
optimisations: what differs rests on something the language leaves open.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from entropy_ext import Support
from tests import draws
from tests.simt import toolchain
from tests.simt.emulator import MANY_MULTIPROCESSORS, Case, run_cases
from tests.simt.toolchain import ADDRESS, PLAIN, THREAD, Variant
from tests.truth import same_bits, stats_dtype


def cases(vocabularies: Sequence[int], dtypes: Sequence[torch.dtype] = draws.DTYPES) -> list[Case]:
    """Every dtype, whole and spread, with or without extras and support, ragged, masked, moved,
    in place."""
    made = []
    for seed, (dtype, vocab, shared) in enumerate(
        itertools.product(dtypes, vocabularies, (1, MANY_MULTIPROCESSORS))
    ):
        logits = draws.draw_logits("masked", 3, vocab, dtype)
        logits[1] = torch.linspace(-3, 3, vocab)
        # Nothing lies before the first row or after the last, so that one element too many is
        # outside. The address sanitizer tells that before an array from 8 bytes on.
        moved = (0, 1, 12 // dtype.itemsize)[seed % 3]
        room = torch.full((moved + 3 * vocab,), math.nan, dtype=dtype)
        placed = room[moved:].view(3, vocab)
        placed.copy_(logits)
        weights = torch.tensor([1.0, -0.5, 0.25], dtype=stats_dtype(dtype))
        case = Case(
            placed,
            draws.draw_tokens(logits),
            draws.cycled_temperatures(3, dtype),
            extras=seed // 2 % 2 == 0,
            upstream=(weights, weights.flip(0), weights.roll(1)),
            multiprocessors=shared,
            seed=seed,
        )
        if seed % 3 != 0:
            support = Support.from_lists(draws.draw_kept(logits, case.tokens))
            case = dataclasses.replace(
                case,
                support=(support.offsets, support.ids),
                upstream_support=(weights.roll(2), -weights),
            )
        # The last row masked and withheld: not to be read.
        mask = torch.tensor([True, True, False])
        made += [case, dataclasses.replace(case, mask=mask, withheld=vocab)]
        if case.support is None:
            made.append(dataclasses.replace(case, mask=mask, inplace=True))
    broken = made[0]
    tokens = torch.tensor([-1, 2**62, vocabularies[0]])
    return [*made, dataclasses.replace(broken, tokens=tokens)]


@pytest.mark.parametrize(
    ("variant", "vocabularies"),
    # The thread sanitizer is ten times slower.
    [(ADDRESS, (1, 7, 33, 2053, 8195, 50257)), (THREAD, (33, 20011))],
    ids=["address and undefined behaviour", "thread"],
)
def test_sanitizers(variant: Variant, vocabularies: tuple[int, ...]) -> None:
    """Catches overruns within a tile, races that end well, signed overflow, bad casts."""
    todo = cases(vocabularies)
    plain = run_cases(toolchain.build_driver(PLAIN), todo)
    sanitized = run_cases(toolchain.build_driver(variant), todo, timeout=300)
    for case, expected, got in zip(todo, plain, sanitized, strict=True):
        for name, value in expected.items():
            assert same_bits(value, got[name]), f"{name} of {case.logits.shape}"
