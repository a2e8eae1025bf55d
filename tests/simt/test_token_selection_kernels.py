"""The CUDA radix selection, executed on the CPU: counts, states and tokens, bit for bit.

Every case is run under a schedule of its own and held to selection_oracle.py in all that it leaves
behind: what the passes have counted, what they have told each other, and which tokens are chosen.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from entropy_ext import clip_cov, kl_cov, top_entropy
from tests import draws
from tests.simt import selection_oracle as oracle
from tests.simt import toolchain
from tests.simt.emulator import run_cases
from tests.simt.selection_emulator import Rule, TokenCase, select_case
from tests.simt.token_inputs import COUNTS, DTYPES, more_than_a_grid

FRACTIONS = (0.2, 2e-4, 0.0, 1.0, 0.5)
KINDS = ("randn", "ties", "equal", "extremes")


@pytest.fixture(scope="module")
def driver() -> Path:
    return toolchain.build_selection_driver(toolchain.PLAIN)


def draw_values(kind: str, count: int, dtype: torch.dtype) -> Tensor:
    """[count]; some of them NaN."""
    random = draws.generator("values", kind, count)
    values = torch.randn(count, generator=random, dtype=torch.float64)
    if kind == "ties":
        # Both zeros among them, which are equal.
        values = (values * 2).round() / 2
    elif kind == "equal":
        values = torch.full_like(values, 0.7)
    elif kind == "extremes":
        tiny = torch.finfo(dtype).smallest_normal
        pool = torch.tensor(
            [math.inf, -math.inf, 0.0, -0.0, tiny, -tiny, tiny / 4, 1e30, -1e30, 1.0],
            dtype=torch.float64,
        )
        values = pool[torch.randint(len(pool), (count,), generator=random)]
    broken = torch.rand(count, generator=random) < 0.02
    return values.masked_fill(broken, math.nan).to(dtype)


def draw_mask(count: int) -> Tensor:
    return torch.rand(count, generator=draws.generator("mask", count)) < 0.7


def draw_ids(count: int) -> Tensor:
    """[count] distinct int64 in no order: small, negative and beyond 2^32; some differ late."""
    random = draws.generator("ids", count)
    spread = torch.randint(-(2**62), 2**62, (count,), generator=random)
    close = torch.randperm(count, generator=random) - count // 2
    return torch.where(torch.arange(count) % 2 == 0, close, spread | 2**40)


def drawn_arguments(
    kind: str, count: int, dtype: torch.dtype, fraction: float, *, ids: bool
) -> dict[str, object]:
    """What select_case and the oracle both take: masked, with exclusions, NaN in the padding."""
    mask = draw_mask(count)
    values = draw_values(kind, count, dtype)
    return {
        "values": values.masked_fill(~mask, math.nan),
        "mask": mask,
        "excluded": torch.rand(count, generator=draws.generator("excluded", count)) < 0.1,
        "token_ids": draw_ids(count) if ids else None,
        "fraction": fraction,
    }


def check(driver: Path, arguments: list[dict], **settings: int) -> list[dict[str, Tensor]]:
    """Each under a schedule of its own; every number against the oracle's."""
    cases = [
        select_case(**one, seed=seed, **settings) for seed, one in enumerate(arguments, start=1)
    ]
    found = run_cases(driver, cases)
    for one, ours in zip(arguments, found, strict=True):
        truth = oracle.select(**one)
        for rank, counters in enumerate(ours["counters"]):
            assert torch.equal(counters, truth.counters), f"rank {rank}: counts of {one}"
        for rank, states in enumerate(ours["states"]):
            assert torch.equal(states, truth.states), f"rank {rank}: states of {one}"
        assert torch.equal(ours["selected"], truth.selected), f"selected of {one}"
    return found


def check_largest(
    driver: Path, kind: str, rule: Rule, dtype: torch.dtype, counts: tuple[int, ...] = COUNTS
) -> None:
    check(
        driver,
        [
            drawn_arguments(kind, count, dtype, fraction, ids=ids) | {"rule": rule}
            for (count, ids), fraction in zip(
                itertools.product(counts, (False, True)), itertools.cycle(FRACTIONS)
            )
        ],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name.lower())
@pytest.mark.parametrize("kind", KINDS)
def test_largest(driver: Path, kind: str, rule: Rule, dtype: torch.dtype) -> None:
    """Catches a wrong key, digit or tie, a candidate lost or met twice, a threshold off by one."""
    check_largest(driver, kind, rule, dtype)


def check_random(driver: Path, dtype: torch.dtype) -> None:
    check(
        driver,
        [
            drawn_arguments("randn", count, dtype, fraction, ids=ids)
            | {"low": -0.5, "high": 1.5, "selection_seed": seed}
            for count, ids in itertools.product(COUNTS, (False, True))
            for seed, fraction in ((0, 0.2), (-(2**63), 2e-4), (2**63 - 1, 1.0))
        ],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_within_bounds(driver: Path, dtype: torch.dtype) -> None:
    """Catches another hash than the documented one, and a bound that is not strict."""
    check_random(driver, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bounds_are_strict(driver: Path, dtype: torch.dtype) -> None:
    """Values on a bound are no candidates, infinite bounds bind nothing: three numbers by hand."""
    values = torch.tensor([1.0, 2.0, 5.0, math.inf, -math.inf, math.nan], dtype=dtype)
    found = check(
        driver,
        [
            {"values": values, "low": 1.0, "high": 5.0, "fraction": 1.0},
            {"values": values, "high": 5.0, "fraction": 1.0},
            {"values": values, "fraction": 1.0},
        ],
    )
    assert [one["selected"].long().tolist() for one in found] == [
        [0, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 1, 1, 1, 0],
    ]


def test_how_many_are_chosen(driver: Path) -> None:
    """The rounding of the two papers' code and of torch.quantile, in numbers worked out by hand."""
    for rule, pairs, fraction in (
        (Rule.FLOOR, [(100, 1), (999, 1), (1000, 2), (1500, 3)], 2e-3),
        (Rule.CEIL, [(1, 1), (5, 1), (6, 2), (10, 2), (11, 3)], 0.2),
        (Rule.QUANTILE, [(7, 2)], 0.3),
        (Rule.CEIL, [(7, 3)], 0.3),
        (Rule.CEIL, [(10, 1)], 0.0),
        (Rule.QUANTILE, [(10, 10)], 1.0),
    ):
        arguments = [
            {"values": torch.arange(float(n)), "fraction": fraction, "rule": rule} for n, _ in pairs
        ]
        found = [int(ours["selected"].sum()) for ours in check(driver, arguments)]
        assert found == [k for _, k in pairs], rule


def test_ties(driver: Path) -> None:
    """Ten equal values: two by the exact rule, of the smallest ids, and all ten by the quantile."""
    equal = {"values": torch.full((10,), 3.0), "fraction": 0.2, "rule": Rule.CEIL}
    ids = torch.tensor([5, 2**40, -7, 3, -(2**63), 11, 2**63 - 1, 4, 9, 8])
    by_place, by_id, all_of_them = check(
        driver, [equal, equal | {"token_ids": ids}, equal | {"rule": Rule.QUANTILE}]
    )
    assert by_place["selected"].nonzero().flatten().tolist() == [0, 1]
    assert by_id["selected"].nonzero().flatten().tolist() == [2, 4]
    assert all_of_them["selected"].all()


@pytest.mark.parametrize("selection_seed", [None, 3], ids=["largest", "random"])
@pytest.mark.parametrize("count", [0, 1, 4097])
def test_nothing_to_choose_from(driver: Path, count: int, selection_seed: int | None) -> None:
    """No token, none valid, or all NaN or excluded: catches a count of one where there is none."""
    values = draw_values("randn", count, torch.float32)
    none, all_of_them = torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    common = {"values": values, "fraction": 0.5, "selection_seed": selection_seed}
    for ours in check(
        driver,
        [
            common | {"mask": none},
            common | {"excluded": all_of_them},
            common | {"values": torch.full_like(values, math.nan)},
        ],
    ):
        assert not ours["selected"].any()


def offset_cases(count: int, dtype: torch.dtype, **settings: int) -> list[TokenCase]:
    """One selection, at every misplacement of its arrays; and one by hash."""
    one = drawn_arguments("ties", count, dtype, 0.3, ids=True)
    ways = [one, one | {"selection_seed": 5}, one | {"excluded": None, "token_ids": None}]
    return [
        select_case(**way, offset=offset, seed=offset, **settings)
        for way, offset in itertools.product(ways, range(5))
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_alignment_changes_nothing(driver: Path, dtype: torch.dtype) -> None:
    """Catches a misaligned access, and a token read or written beside the arrays."""
    for count in (3, 4096, 4099):
        found = run_cases(driver, offset_cases(count, dtype))
        for way in range(0, len(found), 5):
            for other in found[way + 1 : way + 5]:
                for name, value in found[way].items():
                    assert torch.equal(other[name], value), name


@pytest.mark.parametrize("selection_seed", [None, 3], ids=["largest", "random"])
def test_any_order_and_any_ranks(driver: Path, selection_seed: int | None) -> None:
    """With ids, shuffled tokens and tokens dealt to ranks, two of them empty, are chosen alike."""
    common = drawn_arguments("ties", 5000, torch.float32, 0.05, ids=True)
    common["selection_seed"] = selection_seed
    order = torch.randperm(5000, generator=draws.generator("order"))
    shuffled = common | {
        name: common[name][order] for name in ("values", "mask", "excluded", "token_ids")
    }
    (whole,) = check(driver, [common])
    (moved,) = check(driver, [shuffled])
    assert torch.equal(moved["selected"], whole["selected"][order])
    assert torch.equal(moved["counters"], whole["counters"])
    (dealt,) = check(driver, [common], ranks=3)
    assert torch.equal(dealt["selected"], whole["selected"])
    few = {name: x[:2] if isinstance(x, Tensor) else x for name, x in common.items()}
    check(driver, [few], ranks=4)


def test_the_cpu_operators_choose_the_same(driver: Path) -> None:
    """Catches a key, hash, rounding or bound on which the devices differ."""
    for seed, count in enumerate(COUNTS):
        values, mask = draw_values("ties", count, torch.float32).nan_to_num(9.0), draw_mask(count)
        ids, clipped = draw_ids(count), draw_mask(count).flip(0)
        common = {"values": values, "mask": mask, "token_ids": ids}
        hashed, largest, entropy, quantile = run_cases(
            driver,
            [
                select_case(
                    **common,
                    **{"excluded": clipped, "low": -0.5, "high": 2.0, "fraction": 0.1},
                    selection_seed=seed,
                ),
                select_case(**common, fraction=2e-3),
                select_case(**common, fraction=0.2, rule=Rule.CEIL),
                select_case(**common, fraction=0.2, rule=Rule.QUANTILE),
            ],
        )
        given = {"token_ids": ids}
        options = {"fraction": 0.1, "bounds": (-0.5, 2.0), "clipped": clipped, "seed": seed}
        for cuda, cpu in (
            (hashed, clip_cov(values, mask, **options, **given)),
            (largest, kl_cov(values, mask, **given)),
            (entropy, top_entropy(values, mask, **given)),
            (quantile, top_entropy(values, mask, rule="quantile", **given)),
        ):
            assert torch.equal(cuda["selected"], cpu)


def test_more_tiles_than_blocks(driver: Path) -> None:
    """Catches a tile left out or taken twice once blocks take several; k by a full sort."""
    count = more_than_a_grid("token_selection_radix.cu", "kMaxBlocks", "kTokens")
    random = draws.generator("many")
    values = torch.rand(count, generator=random)
    values[torch.rand(count, generator=random) < 0.5] = 0.25
    (ours,) = run_cases(driver, [select_case(values, fraction=0.6)])
    # Ties at 0.25, the first of which belong to those chosen.
    expected = np.zeros(count, bool)
    expected[np.argsort(-values.numpy(), kind="stable")[: int(0.6 * count)]] = True
    assert torch.equal(ours["selected"], torch.from_numpy(expected))
