"""Bad arguments of the token functions: an error that names the argument, and what came."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import entropy_ext
from entropy_ext import TokenStats
from tests.selection_arguments import FUNCTIONS, TENSORS, arguments_of, call, real

EVERY = [(function, name) for function in FUNCTIONS for name in TENSORS[function]]
each_tensor = pytest.mark.parametrize(("function", "name"), EVERY)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_good_arguments_are_good(function: str, device: torch.device) -> None:
    """Without this every error below could come from something else."""
    call(function, device)


@each_tensor
def test_wrong_dtype(function: str, name: str, device: torch.device) -> None:
    """Catches bytes read under another type, and a mask of floats that is multiplied with."""
    value = arguments_of(function, device)[name]
    wrong = {torch.bool: torch.uint8, torch.int64: torch.int32}.get(value.dtype, torch.float16)
    if (function, name) == ("policy_stats", "logits"):
        wrong = torch.int64
    with pytest.raises(TypeError, match=rf"^{name}: expected ") as raised:
        call(function, device, **{name: value.to(wrong)})
    assert f"got {str(wrong).removeprefix('torch.')}" in str(raised.value)


@each_tensor
def test_wrong_shape(function: str, name: str, device: torch.device) -> None:
    """Catches silent broadcasting: of a [B] advantage over [B, T], above all."""
    first = TENSORS[function][0]
    if name == first:
        return  # the shape of the others is measured by this one
    value = arguments_of(function, device)[name]
    for wrong in (value[:1], value.t(), value[..., None]):
        with pytest.raises(ValueError, match=rf"^{name}: expected .*\[2, 3\]") as raised:
            call(function, device, **{name: wrong})
        assert str(list(wrong.shape)) in str(raised.value)


@each_tensor
def test_wrong_device(function: str, name: str, device: torch.device) -> None:
    """Catches an address of one device read on the other."""
    if name == TENSORS[function][0]:
        return  # the device of the others is measured by this one
    value = arguments_of(function, device)[name]
    with pytest.raises((ValueError, RuntimeError)) as raised:
        call(function, device, **{name: value.to("meta")})
    assert all(word in str(raised.value) for word in (name, device.type, "meta")), raised.value


@each_tensor
def test_not_a_tensor(function: str, name: str, device: torch.device) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: expected a tensor, got list$"):
        call(function, device, **{name: [[0.0] * 3] * 2})


def test_mixed_precision(device: torch.device) -> None:
    """float32 beside float64 is refused rather than converted, whichever comes first."""
    for function, name in EVERY:
        value = arguments_of(function, device)[name]
        if value.is_floating_point() and name != TENSORS[function][0]:
            with pytest.raises(TypeError, match=rf"^{name}: expected .*float32"):
                call(function, device, **{name: value.double()})


@pytest.mark.parametrize("function", ["clip_cov", "kl_cov", "top_entropy", "policy_stats"])
@pytest.mark.parametrize("fraction", [-1e-9, 1.0000001, 20.0, math.nan])
def test_fraction_out_of_range(function: str, fraction: float, device: torch.device) -> None:
    """Catches percents taken for fractions: the authors' k_percent is one."""
    message = rf"^fraction: expected a number in \[0, 1\], got {re.escape(str(fraction))}$"
    with pytest.raises(ValueError, match=message):
        call(function, device, fraction=fraction)


@pytest.mark.parametrize("function", ["clip_cov", "kl_cov", "top_entropy", "policy_stats"])
@pytest.mark.parametrize("fraction", [None, "x", [0.1]], ids=str)
def test_fraction_that_is_no_number(function: str, fraction: object, device: torch.device) -> None:
    """Catches Python's own word on a comparison, which names no argument."""
    with pytest.raises(TypeError, match=r"^fraction: expected a number, got "):
        call(function, device, fraction=fraction)


@pytest.mark.parametrize("function", ["clip_cov", "policy_stats"])
@pytest.mark.parametrize("bounds", [None, (1.0,), 3, ("a", "b"), "ab", (1.0, None)], ids=str)
def test_bounds_that_are_not_two_numbers(
    function: str, bounds: object, device: torch.device
) -> None:
    """Catches an error of unpacking, or of the binding, in place of the argument's name."""
    for group in (None, object()) if function == "clip_cov" else (None,):
        more = {} if group is None else {"group": group}
        with pytest.raises(TypeError, match=r"^bounds: expected two numbers \(low, high\), got "):
            call(function, device, bounds=bounds, **more)


@pytest.mark.parametrize("function", ["covariance", "policy_stats"])
def test_moments_of_another_kind(function: str, device: torch.device) -> None:
    """Catches an attribute that is missing from what was given."""
    with pytest.raises(TypeError, match=r"^moments: expected CovarianceMoments, got int$"):
        call(function, device, moments=3)


@pytest.mark.parametrize("function", ["clip_cov", "policy_stats"])
@pytest.mark.parametrize("bounds", [(5.0, 1.0), (1.0, 1.0), (math.nan, 5.0), (1.0, math.nan)])
def test_bounds_that_hold_nothing(
    function: str, bounds: tuple[float, float], device: torch.device
) -> None:
    with pytest.raises(ValueError, match=r"^bounds: expected low < high, got "):
        call(function, device, bounds=bounds)


@pytest.mark.parametrize("function", ["clip_cov", "policy_stats"])
def test_bad_seeds(function: str, device: torch.device) -> None:
    """Catches a float seed that is cut off, and a tensor of seeds."""
    for seed, error, said in (
        (0.5, TypeError, "float"),
        (torch.tensor(1.0), TypeError, "float32"),
        (torch.tensor(1, dtype=torch.int32), TypeError, "int32"),
        (torch.tensor([1]), ValueError, r"\[1\]"),
        (torch.tensor(1, device="meta"), ValueError, "meta"),
        (2**63, ValueError, "9223372036854775808"),
        (-(2**63) - 1, ValueError, "-9223372036854775809"),
    ):
        if isinstance(seed, Tensor) and seed.device.type == "cpu":
            seed = seed.to(device)
        with pytest.raises(error, match=rf"^seed: expected .*{said}"):
            call(function, device, seed=seed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rule": "median"}, r"^rule: expected .*exact.*quantile.*, got 'median'$"),
    ],
)
def test_top_entropy_options(changed: dict[str, Any], message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match=message):
        call("top_entropy", device, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"form": "paper"}, r"^form: expected .*code.*own_logit.*exact.*, got 'paper'$"),
        ({"weight_map": "log"}, r"^weight_map: expected .*exp.*linear.*, got 'log'$"),
        ({"collision": None}, r"^collision: expected "),
        ({"collision_logp": None}, r"^collision_logp: expected "),
        ({"lambda_min": 0.0}, r"^lambda_min: expected .*, got 0\.0$"),
        ({"lambda_min": -0.5}, r"^lambda_min: expected .*, got -0\.5$"),
        ({"lambda_min": 1.5}, r"^lambda_min: expected .*, got 1\.5$"),
        ({"lambda_min": math.nan}, r"^lambda_min: expected .*, got nan$"),
        ({"floor": -1.0}, r"^floor: expected .*, got -1\.0$"),
        ({"floor": math.inf}, r"^floor: expected .*, got inf$"),
        ({"weight_map": "linear", "lambda_max": 0.5}, r"^lambda_m.*: expected .*, got 0\.\d$"),
        ({"weight_scale": torch.ones(3)}, r"^weight_scale: expected .*, got .*\[3\]$"),
        ({"weight_scale": -1.0}, r"^weight_scale: expected .*, got -1\.0$"),
        ({"weight_scale": math.nan}, r"^weight_scale: expected .*, got nan$"),
        ({"weight_scale": [0.0, 1.0]}, r"^weight_scale: expected a number or a tensor, got list$"),
        ({"weight_scale": "1"}, r"^weight_scale: expected a number or a tensor, got str$"),
        ({"lambda_min": "x"}, r"^lambda_min: expected a number, got 'x'"),
        ({"lambda_max": None}, r"^lambda_max: expected a number, got None"),
        ({"floor": "x"}, r"^floor: expected a number, got 'x'"),
    ],
)
def test_steer_options(changed: dict[str, Any], message: str, device: torch.device) -> None:
    changed = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in changed.items()}
    with pytest.raises((TypeError, ValueError), match=message):
        call("steer_weights", device, **changed)


@pytest.mark.parametrize("form", ["code", "exact"])
@pytest.mark.parametrize(
    "scale", [math.nan, -1.0, math.inf, [2.0, 1.0], [math.nan, 1.0], [0.0, math.inf], [-1.0, 1.0]]
)
def test_a_weight_scale_tensor_that_is_no_range(
    scale: float | list[float], form: str, device: torch.device
) -> None:
    """On the CPU an error, on CUDA NaN: catches weights that look well and mean nothing."""
    changed: dict[str, Any] = {"weight_scale": torch.tensor(scale, device=device), "form": form}
    if device.type == "cpu":
        for more in ({}, {"group": object()}):
            with pytest.raises(ValueError, match=r"^weight_scale: expected 0 ≤ M_min ≤ M_max"):
                call("steer_weights", device, **changed, **more)
    else:
        for weight_map in ("exp", "linear"):
            weights = call("steer_weights", device, **changed, weight_map=weight_map)
            assert weights.isnan().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steer_form": "paper"}, r"^steer_form: expected .*, got 'paper'$"),
        ({"lambda_min": 0.0}, r"^lambda_min: expected .*, got 0\.0$"),
        ({"lambda_min": 1.5}, r"^lambda_min: expected .*, got 1\.5$"),
        ({"floor": -1.0}, r"^floor: expected .*, got -1\.0$"),
        ({"clip_low": -0.1}, r"^clip_low: expected .*, got -0\.1$"),
        ({"clip_high": math.nan}, r"^clip_high: expected .*, got nan$"),
    ],
)
def test_policy_stats_options(changed: dict[str, Any], message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match=message):
        call("policy_stats", device, **changed)


def test_a_clip_that_is_open_above(device: torch.device) -> None:
    """Catches an infinite clip_high, which recipes take, refused; it clips no token."""
    for clip_high, expected in ((math.inf, [True] * 3), (0.2, [False] * 3)):
        got = entropy_ext.policy_stats(
            torch.zeros(3, 5, device=device),
            torch.zeros(3, dtype=torch.int64, device=device),
            torch.ones(3, device=device),
            None,
            old_logp=torch.full((3,), -9.0, device=device),
            clip_high=clip_high,
            fraction=1.0,
            bounds=(-math.inf, math.inf),
        )
        assert got.clip_cov.tolist() == expected


def test_stats_of_another_kind(device: torch.device) -> None:
    """Catches an attribute that is missing from what was given."""
    x = real(device)
    with pytest.raises(TypeError, match=r"^stats: expected TokenStats, got NoneType$"):
        entropy_ext.entropy_change(None, x)  # type: ignore[arg-type]
    stats = TokenStats(-x, [1.0], x, collision=x, collision_logp=x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^stats.entropy: expected a tensor, got list$"):
        entropy_ext.entropy_change(stats, x)


def test_stats_without_extras(device: torch.device) -> None:
    x = real(device)
    with pytest.raises(ValueError, match=r"^stats: expected .*extras=True"):
        entropy_ext.entropy_change(TokenStats(-x, x, x), x)


@pytest.mark.parametrize("function", ["clip_cov", "kl_cov", "top_entropy"])
def test_a_group_needs_ids(function: str, device: torch.device) -> None:
    """Catches positions taken for ids that are unique over ranks."""
    arguments: dict[str, Callable[..., Any] | Any] = {"group": object(), "token_ids": None}
    with pytest.raises(ValueError, match=r"^token_ids: expected .*group"):
        call(function, device, **arguments)
