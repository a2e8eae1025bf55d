"""The CUDA kernels of the STEER weights, executed on the CPU."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.simt import toolchain
from tests.simt.emulator import run_cases
from tests.simt.selection_emulator import Form, Map, steer_case
from tests.simt.token_inputs import (
    COUNTS,
    DTYPES,
    FORMULAS,
    draw_inputs,
    evaluate,
    more_than_a_grid,
)
from tests.truth import assert_within_rule, same_bits


@pytest.fixture(scope="module")
def driver() -> Path:
    return toolchain.build_selection_driver(toolchain.PLAIN)


def weights_of(
    size: np.ndarray, weight_map: Map, low: float, high: float, floor: float
) -> np.ndarray:
    if weight_map == Map.EXP:
        scale = np.maximum(size.max(), size.dtype.type(floor))
        return np.exp(np.log(size.dtype.type(low)) * size / scale).clip(low, 1)
    if size.max() == size.min():
        return np.full_like(size, (low + high) / 2)
    slope = (high - low) / (size.max() - size.min())
    return (high - (size - size.min()) * slope).clip(low, high)


def check_steer(
    driver: Path,
    form: Form,
    weight_map: Map,
    dtype: torch.dtype,
    counts: tuple[int, ...] = COUNTS,
) -> None:
    high = 1.0 if weight_map == Map.EXP else 1.2
    for seed, count in enumerate(counts):
        inputs, mask = draw_inputs(count, dtype)
        valid = {name: x[mask] for name, x in inputs.items()}

        def sizes(**arrays: np.ndarray) -> np.ndarray:
            return np.abs(FORMULAS[form](**arrays))

        def weights(**arrays: np.ndarray) -> np.ndarray:
            return weights_of(sizes(**arrays), weight_map, 0.8, high, 0.02)

        arrays = dict(inputs) if form == Form.EXACT else {k: inputs[k] for k in list(inputs)[:4]}
        cases = [
            steer_case(
                **arrays,
                mask=mask,
                form=form,
                weight_map=weight_map,
                lambda_max=high,
                offset=offset,
                seed=seed,
            )
            for offset in (0, 1 + seed % 4)
        ]
        for ours in run_cases(driver, cases):
            assert not ours["weights"][~mask].any()
            assert_range(ours, mask)
            for name, formula in (("sizes", sizes), ("weights", weights)):
                truth, baseline = evaluate(formula, valid, dtype)
                assert_within_rule(name, ours[name][mask], truth, baseline, compute=dtype)


def assert_range(ours: dict[str, Tensor], counted: Tensor) -> None:
    """The integers that stand for the range are the bits of the sizes written."""
    bits = ours["sizes"][counted].double().view(torch.int64)
    assert ours["range"].tolist() == [int(bits.max()), 2**63 - 1 - int(bits.min())]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight_map", Map, ids=lambda x: x.name.lower())
@pytest.mark.parametrize("form", Form, ids=lambda x: x.name.lower())
def test_steer_weights(driver: Path, form: Form, weight_map: Map, dtype: torch.dtype) -> None:
    """Catches a wrong form, map, range or clamp, and padding that counts in the range."""
    check_steer(driver, form, weight_map, dtype)


def test_steer_weights_by_hand(driver: Path) -> None:
    """The three tokens of the method's note, and its floor."""
    logp = torch.tensor([0.9, 0.1, 0.5]).log()
    arguments = (logp, logp, torch.tensor([0.5, 2.0, 0.8]), torch.tensor([1.0, 1.0, -1.0]), None)
    exponential, bounded, linear = run_cases(
        driver,
        [
            steer_case(*arguments, form=Form.CODE, weight_map=Map.EXP),
            steer_case(*arguments, form=Form.CODE, weight_map=Map.EXP, lambda_max=0.9),
            steer_case(*arguments, form=Form.CODE, weight_map=Map.LINEAR, lambda_max=1.2),
        ],
    )
    assert exponential["sizes"].tolist() == pytest.approx([0.039464, 0.272327, 0.053426], abs=1e-6)
    assert exponential["weights"].tolist() == pytest.approx([0.968181, 0.8, 0.957167], abs=1e-6)
    assert linear["weights"].tolist() == pytest.approx([1.2, 0.8, 1.176016], abs=1e-6)
    # Of the exponential map, 1 is the greatest weight, as in the authors' code.
    assert same_bits(bounded["weights"], exponential["weights"])
    # Ω = A·(1 − p)(ln p + H) with p = 1/2, ln p + H = 0.1: 0.05·A.
    half = torch.tensor([0.5]).log()
    few = (half, half, 0.1 - half, torch.tensor([0.1]), None)
    (small,) = run_cases(driver, [steer_case(*few, form=Form.CODE, weight_map=Map.EXP)])
    assert small["weights"].tolist() == pytest.approx([0.945742], abs=1e-6)


@pytest.mark.parametrize("weight_map", Map, ids=lambda x: x.name.lower())
def test_what_is_not_finite_has_no_part_in_the_range(driver: Path, weight_map: Map) -> None:
    """One bad input of each kind: NaN there, and the weights of the others as without it."""
    inputs, _ = draw_inputs(300, torch.float32)
    inputs = {name: x.nan_to_num(0.5) for name, x in inputs.items()}
    bad = torch.zeros(300, dtype=torch.bool)
    broken = {name: x.clone() for name, x in inputs.items()}
    for place, name in enumerate(inputs, start=7):
        broken[name][place] = (math.nan, math.inf, -math.inf)[place % 3]
        bad[place] = True
    # Finite inputs whose |Ω| is beyond the range of float.
    broken["old_logp"][20] = broken["logp"][20] - 20
    broken["advantages"][20] = 3e38
    bad[20] = True
    options = {"form": Form.EXACT, "weight_map": weight_map}
    without, ours = run_cases(
        driver,
        [steer_case(**inputs, mask=~bad, **options), steer_case(**broken, mask=None, **options)],
    )
    assert ours["weights"][bad].isnan().all()
    assert same_bits(ours["weights"][~bad], without["weights"][~bad])
    assert torch.equal(ours["range"], without["range"])


def test_the_range_is_that_of_all_warps(driver: Path) -> None:
    """The extremes in the last warp, under many schedules: catches a missing barrier."""
    logp = torch.full((1024,), -0.5)
    entropy = torch.ones(1024)
    advantages = torch.ones(1024)
    advantages[-2:] = torch.tensor([0.5, 2.0])
    options = {"form": Form.OWN_LOGIT, "weight_map": Map.LINEAR}
    arguments = (logp, logp, entropy, advantages, None)
    for ours in run_cases(
        driver, [steer_case(*arguments, **options, seed=seed) for seed in range(12)]
    ):
        assert_range(ours, torch.ones(1024, dtype=torch.bool))


def test_no_valid_token(driver: Path) -> None:
    """Empty or wholly masked, both maps: weights 0 and a range that anything may join."""
    inputs, _ = draw_inputs(257, torch.float32)
    for count, weight_map in itertools.product((0, 257), Map):
        some = {name: x[:count] for name, x in inputs.items()}
        none = torch.zeros(count, dtype=torch.bool)
        case = steer_case(**some, mask=none, form=Form.EXACT, weight_map=weight_map)
        (ours,) = run_cases(driver, [case])
        assert not ours["weights"].any()
        assert not ours["range"].any()


def test_the_range_over_more_tiles_than_blocks(driver: Path) -> None:
    """Catches a tile left out once a block takes several: the largest |Ω| is in the last."""
    count = more_than_a_grid("token_selection_weights.cu", "kMaxRangeBlocks", "kTokens")
    logp = torch.full((count,), -0.5)
    advantages = torch.linspace(0.5, 1.5, count)
    entropy = torch.ones(count)
    options = {"form": Form.OWN_LOGIT, "weight_map": Map.LINEAR}
    (ours,) = run_cases(driver, [steer_case(logp, logp, entropy, advantages, None, **options)])
    assert_range(ours, torch.ones(count, dtype=torch.bool))
    assert ours["weights"][-1] == pytest.approx(0.8)
    assert ours["weights"][0] == 1
