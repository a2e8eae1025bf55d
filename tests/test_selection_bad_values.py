"""NaN and infinities among the values that are selected from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import entropy_ext
from tests.selection_arguments import SHAPE, TENSORS, call, flags


@pytest.mark.parametrize("function", ["clip_cov", "kl_cov", "top_entropy"])
def test_nan_in_a_valid_token(function: str, device: torch.device) -> None:
    """On the CPU an error with the first such position, on CUDA such a token is not selected."""
    name = TENSORS[function][0]
    values = torch.arange(6.0, device=device).view(SHAPE)
    values[0, 1] = values[1, 0] = values[1, 2] = math.nan
    mask = flags(device)
    mask[0, 1] = False
    none = torch.zeros_like(mask)
    changed: dict[str, Any] = {name: values, "mask": mask, "fraction": 1.0}
    if function == "clip_cov":
        changed |= {"clipped": none, "bounds": (-math.inf, math.inf)}
    if device.type == "cpu":
        with pytest.raises(ValueError, match=rf"^{name}\[1, 0\]: expected .*, got nan$"):
            call(function, device, **changed)
    else:
        got = call(function, device, **changed)
        assert got.tolist() == [[True, False, True], [False, True, False]]


@pytest.mark.parametrize("function", ["clip_cov", "kl_cov", "top_entropy"])
def test_infinite_values_are_values(function: str, device: torch.device) -> None:
    """The greatest and the least of all: catches −inf mistaken for “not a candidate”."""
    name = TENSORS[function][0]
    values = torch.tensor([[-math.inf, math.inf, 1.0], [2.0, math.inf, -math.inf]], device=device)
    changed: dict[str, Any] = {name: values, "mask": None, "fraction": 1.0}
    if function == "clip_cov":
        changed |= {"clipped": None, "bounds": (-math.inf, math.inf)}
    assert call(function, device, **changed).all()
    if function != "clip_cov":
        some = call(function, device, **(changed | {"fraction": 0.2}))
        assert (values[some] == math.inf).all()


@pytest.mark.parametrize("position", [(0, 0), (1, 2), (2, 1)], ids=lambda p: f"{p[0]},{p[1]}")
def test_positions_are_those_of_the_argument(
    position: tuple[int, int], device: torch.device
) -> None:
    """Of a transposed tensor too: catches the position counted in memory."""
    if device.type != "cpu":
        pytest.skip("bad tokens are not selected on CUDA, which cannot raise without waiting")
    values = torch.zeros(3, 3).t()
    values[position] = math.nan
    expected = rf"^cov\[{position[0]}, {position[1]}\]: "
    with pytest.raises(ValueError, match=expected):
        entropy_ext.kl_cov(values, None)
    with pytest.raises(ValueError, match=expected.replace("cov", "logp")):
        entropy_ext.covariance(values, torch.zeros(3, 3), None)
