"""The kernels over tokens under the sanitizers, with the bits of the plain program."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from tests.simt import toolchain
from tests.simt.emulator import run_cases
from tests.simt.selection_emulator import (
    MOMENT_SUMS,
    Form,
    Map,
    Rule,
    TokenCase,
    clipped_case,
    covariance_case,
    merge_case,
    moments_case,
    select_case,
    steer_case,
)
from tests.simt.test_entropy_change_kernels import change_case
from tests.simt.test_token_selection_kernels import drawn_arguments
from tests.simt.token_inputs import DTYPES, draw_inputs
from tests.simt.toolchain import ADDRESS, PLAIN, THREAD, Variant


def select_cases(counts: Sequence[int], dtypes: Sequence[torch.dtype] = DTYPES) -> list[TokenCase]:
    """Both orders, all rules, ties that ids break, whole arrays and absent ones, misaligned."""
    made = []
    for seed, (count, dtype, rule) in enumerate(itertools.product(counts, dtypes, Rule)):
        one = drawn_arguments("ties", count, dtype, 0.3, ids=seed % 2 == 0) | {"rule": rule}
        made += [
            select_case(**one, seed=seed, offset=seed % 5),
            select_case(**one | {"selection_seed": seed, "low": -1.0}, seed=seed),
            select_case(one["values"], fraction=0.1, seed=seed, offset=(seed + 1) % 5),
        ]
    return made


def number_cases(counts: Sequence[int], dtypes: Sequence[torch.dtype] = DTYPES) -> list[TokenCase]:
    made = [merge_case(torch.ones(300, MOMENT_SUMS, dtype=torch.float64))]
    for seed, (count, dtype) in enumerate(itertools.product(counts, dtypes)):
        inputs, mask = draw_inputs(count, dtype)
        settings = {"seed": seed, "offset": seed % 5}
        logp, advantages = inputs["logp"], inputs["advantages"]
        sums = torch.ones(MOMENT_SUMS, dtype=torch.float64)
        made += [
            moments_case(logp, advantages, mask, **settings),
            covariance_case(logp, advantages, mask, sums, **settings),
            clipped_case(
                *(logp, inputs["old_logp"], advantages, mask),
                **{"clip_low": 0.2, "clip_high": 0.2, **settings},
            ),
            change_case(inputs, mask, **settings),
            *(
                steer_case(**inputs, mask=mask, form=form, weight_map=weight_map, **settings)
                for form, weight_map in itertools.product(Form, Map)
            ),
        ]
    return made


@pytest.mark.parametrize(
    ("variant", "counts", "dtypes"),
    # The thread sanitizer is ten times slower; two blocks are the least that can race.
    [(ADDRESS, (1, 31, 4096, 4099), DTYPES), (THREAD, (4099,), DTYPES[:1])],
    ids=["address and undefined behaviour", "thread"],
)
def test_sanitizers(
    variant: Variant, counts: tuple[int, ...], dtypes: tuple[torch.dtype, ...]
) -> None:
    """Catches overruns within a tile, plain accesses where atomic ones are due, shifts by 64."""
    todo = [*select_cases(counts, dtypes), *number_cases(counts, dtypes)]
    plain = run_cases(toolchain.build_selection_driver(PLAIN), todo)
    sanitized = run_cases(toolchain.build_selection_driver(variant), todo, timeout=300)
    for case, expected, got in zip(todo, plain, sanitized, strict=True):
        for name, value in expected.items():
            same = torch.equal(value.view(torch.uint8), got[name].view(torch.uint8))
            assert same, f"{name} of {case.operation.name}, {case.count} tokens"
