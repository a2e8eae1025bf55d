"""The CUDA kernels of the entropy change and of the PPO clip, executed on the CPU."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.simt import toolchain
from tests.simt.emulator import KernelError, run_cases
from tests.simt.selection_emulator import (
    MOMENT_SUMS,
    Form,
    Map,
    TokenCase,
    clipped_case,
    covariance_case,
    entropy_change_case,
    moments_case,
    select_case,
    steer_case,
)
from tests.simt.token_inputs import COUNTS, DTYPES, Inputs, draw_inputs, entropy_change, evaluate
from tests.truth import assert_within_rule


@pytest.fixture(scope="module")
def driver() -> Path:
    return toolchain.build_selection_driver(toolchain.PLAIN)


def change_case(inputs: Inputs, mask: Tensor, **settings: int) -> TokenCase:
    """Masked rows as token_stats leaves them: 0, beside advantages that may be anything."""
    rows = {
        name: inputs[name].masked_fill(~mask, 0)
        for name in ("logp", "entropy", "collision", "collision_logp")
    }
    ratio = (inputs["logp"] - inputs["old_logp"]).exp()
    return entropy_change_case(**rows, advantages=inputs["advantages"], ratio=ratio, **settings)


def check_entropy_change(driver: Path, dtype: torch.dtype) -> None:
    for seed, count in enumerate(COUNTS):
        inputs, mask = draw_inputs(count, dtype)
        # The ratio as the kernel receives it, rounded.
        ratio = (inputs["logp"] - inputs["old_logp"]).exp()
        valid = {name: x[mask] for name, x in inputs.items()} | {"ratio": ratio[mask]}

        def formula(ratio: np.ndarray, old_logp: np.ndarray, **rest: np.ndarray) -> np.ndarray:
            return ratio * entropy_change(old_logp=rest["logp"], **rest)

        truth, baseline = evaluate(formula, valid, dtype)
        cases = [
            change_case(inputs, mask, offset=offset, seed=seed) for offset in (0, 1 + seed % 4)
        ]
        for ours in run_cases(driver, cases):
            assert not ours["change"][~mask].any()
            assert_within_rule("change", ours["change"][mask], truth, baseline, compute=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entropy_change(driver: Path, dtype: torch.dtype) -> None:
    """Catches a wrong term or sign, and a masked row that lets NaN through."""
    check_entropy_change(driver, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entropy_change_by_hand(driver: Path, dtype: torch.dtype) -> None:
    """z = (1, 0, −1, 0.5), first and third token; then a token of probability 0. No ratio: 1."""
    log_p = torch.tensor([1, 0, -1, 0.5], dtype=torch.float64).log_softmax(0)
    p, entropy = log_p.exp(), -(log_p.exp() * log_p).sum()
    mean = (p.square() * (log_p + entropy)).sum()
    logp = torch.stack([log_p[0], log_p[2], torch.tensor(-math.inf)])
    advantages = torch.tensor([1.0, 2.0, 3.0])
    inputs = [
        logp,
        entropy.expand(3),
        p.square().sum().expand(3),
        (p.square() * log_p).sum().expand(3),
        advantages,
    ]
    (ours,) = run_cases(driver, [entropy_change_case(*(x.to(dtype) for x in inputs), None)])
    step = 1e-6
    for i, token in enumerate((0, 2)):
        # A step of size η along A·(e_token − p) on the logits.
        moved = log_p + step * advantages[i] * (torch.eye(4, dtype=torch.float64)[token] - p)
        q = moved.log_softmax(0)
        measured = (-(q.exp() * q).sum() - entropy) / step
        assert float(ours["change"][i]) == pytest.approx(float(measured), abs=1e-5)
    assert float(ours["change"][2]) == pytest.approx(3 * float(mean))


def check_clipped(driver: Path, dtype: torch.dtype) -> None:
    for seed, count in enumerate(COUNTS):
        inputs, mask = draw_inputs(count, dtype)
        # In the padding a token that would be clipped.
        logp, old_logp, advantages = (
            inputs[name].masked_fill(~mask, padding)
            for name, padding in (("logp", 0.0), ("old_logp", -5.0), ("advantages", 1.0))
        )
        ratio = (logp.double() - old_logp.double()).clamp(-20, 20).exp()
        a = advantages.double()
        truth = (-a * ratio.clamp(1 - 0.2, 1 + 0.28) > -a * ratio) & mask
        cases = [
            clipped_case(
                *(logp, old_logp, advantages, mask),
                **{"clip_low": 0.2, "clip_high": 0.28, "offset": offset, "seed": seed},
            )
            for offset in range(5)
        ]
        for ours in run_cases(driver, cases):
            assert torch.equal(ours["clipped"], truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clipped(driver: Path, dtype: torch.dtype) -> None:
    """Catches a wrong side, sign or bound of the clip, and padding that counts as clipped."""
    check_clipped(driver, dtype)


def test_clipped_at_the_ends(driver: Path) -> None:
    """A clip below 0 or beyond e^20 is never reached; advantage 0 and NaN are never clipped."""
    logp = torch.tensor([-30.0, 0.0, -1.0, -1.0, math.nan, -math.inf])
    old_logp = torch.tensor([0.0, -30.0, -2.0, -2.0, -1.0, -math.inf])
    advantages = torch.tensor([-1.0, 1.0, 0.0, math.nan, 1.0, 1.0])
    tokens = (logp, old_logp, advantages, None)
    wide, narrow = run_cases(
        driver,
        [
            clipped_case(*tokens, clip_low=1.0, clip_high=math.exp(21)),
            clipped_case(*tokens, clip_low=0.2, clip_high=0.2),
        ],
    )
    assert not wide["clipped"].any()
    assert narrow["clipped"].tolist() == [True, True, False, False, False, False]


def test_an_unknown_dtype_is_an_error(driver: Path) -> None:
    """bfloat16 has no kernel here: catches a launcher that does nothing and says nothing."""
    inputs, mask = draw_inputs(31, torch.float32)
    some = inputs["logp"], inputs["old_logp"], inputs["advantages"], mask
    for case in (
        change_case(inputs, mask),
        clipped_case(*some, clip_low=0.2, clip_high=0.2),
        steer_case(**inputs, mask=mask, form=Form.EXACT, weight_map=Map.EXP),
        moments_case(*some[:2], mask),
        covariance_case(*some[:2], mask, torch.ones(MOMENT_SUMS, dtype=torch.float64)),
        select_case(inputs["logp"], fraction=0.5),
    ):
        with pytest.raises(KernelError, match="unknown dtype"):
            run_cases(driver, [dataclasses.replace(case, dtype=torch.bfloat16)])
